"""Sampling in one launch, against the sorting reference and the exact distribution."""

import pytest
import torch
from interpreted import DEVICE, DTYPES, randn
from torch import Tensor

from atoll_kernels import reference
from atoll_kernels.gpu import sampling

ROWS, VOCAB = 6, 300


@pytest.fixture(autouse=True, params=[True, False], ids=["whole", "in blocks"])
def _held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary that fits the registers, and one that is read again and again."""
    if not request.param:
        monkeypatch.setattr(sampling, "_MAX_WHOLE", 0)


def draw(
    logits: Tensor, temperature: Tensor, top_k: Tensor | None, top_p: Tensor | None, u: Tensor
) -> Tensor:
    found = sampling.sample(logits, temperature, top_k, top_p, u)
    assert found is not None
    return found


def uniforms(count: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64).to(DEVICE)


def repeat(values: list[float], dtype: torch.dtype) -> Tensor:
    return torch.tensor((values * ROWS)[:ROWS], dtype=dtype, device=DEVICE)


@pytest.mark.parametrize("top_k", [None, [1, 5, 299, 300, 1000]], ids=["any", "k"])
@pytest.mark.parametrize("top_p", [None, [0.1, 0.5, 0.95, 1.0, 1e-6]], ids=["any", "p"])
def test_equals_the_sorting_reference(top_k: list[float] | None, top_p: list[float] | None) -> None:
    logits = 3 * randn(ROWS, VOCAB, seed=1)
    k = None if top_k is None else repeat(top_k, torch.int32)
    p = None if top_p is None else repeat(top_p, torch.float32)
    temperature = repeat([1.0, 0.7, 1.8, 0.1], torch.float32)
    u = uniforms(ROWS)
    ours = draw(logits, temperature, k, p, u)
    assert torch.equal(ours, reference.sample(logits, temperature, k, p, u))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_half_precision_logits(dtype: torch.dtype) -> None:
    """Coarse scores collide: tokens that tie at the limit stay or go together."""
    logits = (2 * randn(ROWS, VOCAB, seed=1)).to(dtype)
    ones = torch.ones(ROWS, device=DEVICE)
    k, p = repeat([7], torch.int32), repeat([0.9], torch.float32)
    ours = draw(logits, ones, k, p, uniforms(ROWS))
    assert torch.equal(ours, reference.sample(logits.float(), ones, k, p, uniforms(ROWS)))


def test_every_token_gets_its_share() -> None:
    """Evenly spaced points draw each token in proportion to its probability, within one point."""
    logits = randn(1, 9, seed=3).expand(24, 9)
    points = (torch.arange(24, dtype=torch.float64, device=DEVICE) + 0.5) / 24
    ones = torch.ones(24, device=DEVICE)
    k = torch.full((24,), 4, dtype=torch.int32, device=DEVICE)
    counts = draw(logits, ones, k, None, points).bincount(minlength=9)
    best = logits[0].topk(4)
    exact = torch.zeros(9, device=DEVICE).scatter_(0, best.indices, best.values.softmax(0)) * 24
    assert ((counts - exact).abs() <= 1).all() and counts.count_nonzero() == 4


def test_removed_tokens_are_never_drawn() -> None:
    """-inf from a grammar, at both ends of the vocabulary and of the interval."""
    logits = torch.full((2, VOCAB), float("-inf"), device=DEVICE)
    logits[:, 130], logits[:, 170] = 1.0, 2.0
    ones = torch.ones(2, device=DEVICE)
    edges = torch.tensor([1e-15, 1 - 1e-15], dtype=torch.float64, device=DEVICE)
    k, p = repeat([50], torch.int32)[:2], repeat([0.99], torch.float32)[:2]
    for limits in ((None, None), (k, None), (None, p), (k, p)):
        assert draw(logits, ones, *limits, edges).tolist() == [130, 170]


def test_ties_at_the_limit_are_kept_together() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0]], device=DEVICE).expand(12, 5)
    k = torch.full((12,), 2, dtype=torch.int32, device=DEVICE)
    ids = draw(logits, torch.ones(12, device=DEVICE), k, None, uniforms(12))
    assert sorted(set(ids.tolist())) == [1, 2, 3]


def test_zeros_of_both_signs_are_one_score() -> None:
    logits = torch.tensor([[-0.0, 0.0, -5.0]], device=DEVICE).expand(12, 3)
    k = torch.ones(12, dtype=torch.int32, device=DEVICE)
    ids = draw(logits, torch.ones(12, device=DEVICE), k, None, uniforms(12))
    assert sorted(set(ids.tolist())) == [0, 1]


def test_a_row_of_one_token_and_no_rows() -> None:
    one = torch.ones(1, device=DEVICE)
    assert draw(torch.zeros(1, 1, device=DEVICE), one, None, None, uniforms(1)).tolist() == [0]
    empty = torch.ones(0, device=DEVICE)
    assert draw(torch.zeros(0, 5, device=DEVICE), empty, None, None, uniforms(0)).shape == (0,)
