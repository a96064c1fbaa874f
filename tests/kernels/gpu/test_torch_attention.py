"""Attention by torch's kernels where a bias pads the sequences; SDPA runs on a CPU, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import atoll_kernels as kernels
from atoll_kernels import reference
from atoll_kernels.attention import AttentionArgs, alibi_slopes
from atoll_kernels.gpu import torch_attention

HEADS, DIM = 6, 16
RELATIVE = torch.randn(HEADS, 21, generator=torch.Generator().manual_seed(9))
MASKS: dict[str, dict[str, Any]] = {
    "window": {"window": 7},
    "causal-window": {"window": 7, "causal": True},
    "alibi": {"alibi_slopes": alibi_slopes(HEADS)},
    "causal-alibi": {"alibi_slopes": alibi_slopes(HEADS), "causal": True},
    "relative": {"relative_bias": RELATIVE},
}


def _ends(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


@pytest.mark.parametrize("at_once", [1 << 27, 1])
@pytest.mark.parametrize("kv_heads", [6, 2])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    ("queries", "keys"), [((1, 40, 0, 13), (1, 40, 0, 13)), ((3, 1, 0, 9), (30, 1, 5, 9))]
)
def test_a_bias_over_padded_sequences(
    queries: tuple[int, ...], keys: tuple[int, ...], mask: str, kv_heads: int, at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whole sequences and chunks at the end of longer ones; all at once, and one by one."""
    monkeypatch.setattr(torch_attention, "_MAX_BIAS", at_once)
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(sum(queries), HEADS, DIM, generator=generator)
    k, v = (torch.randn(sum(keys), kv_heads, DIM, generator=generator) for _ in "kv")
    options = AttentionArgs(0.3, **{"causal": False, **MASKS[mask]})
    ends = (_ends(*queries), _ends(*keys))
    found = torch_attention.torch_efficient(q, k, v, *ends, options)
    wide = (x.double() for x in (q, k, v))
    exact = reference.varlen_attention(*wide, *ends, options)
    assert float((found - exact).abs().max()) <= 2e-6 * max(1.0, float(exact.abs().max()))


def test_rows_without_a_key_are_zero() -> None:
    """The keys behind a sequence are hidden from queries far before them."""
    q, k = torch.ones(9, 1, DIM), torch.ones(2, 1, DIM)
    given = AttentionArgs(1.0, causal=True, window=3)
    found = torch_attention.torch_efficient(q, k, k, _ends(9), _ends(2), given)
    assert not found[:7].any() and found[7:].eq(1).all()


@pytest.mark.parametrize("window", [None, 3])
def test_a_soft_cap_of_scores(window: int | None) -> None:
    """Of float64, which no native kernel takes: the reference's."""
    q, k, v = torch.randn(3, 9, 4, DIM, dtype=torch.float64, generator=torch.Generator())
    args = AttentionArgs(0.5, causal=True, window=window, softcap=2.0)
    found = kernels.varlen_attention(q, k[:, :2], v[:, :2], _ends(9), _ends(9), args)
    scores = torch.einsum("qhd,khd->hqk", q, k[:, :2].repeat_interleave(2, 1)) * 0.5
    offset = torch.arange(9) - torch.arange(9)[:, None]
    hidden = (offset > 0) | (offset <= -(window or 9))
    weights = (2 * (scores / 2).tanh()).masked_fill(hidden, -torch.inf).softmax(-1)
    wanted = torch.einsum("hqk,khd->qhd", weights, v[:, :2].repeat_interleave(2, 1))
    torch.testing.assert_close(found, wanted)
