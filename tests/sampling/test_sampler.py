"""The choice of a token: draws, seeds, log-probabilities, and rows that leave none."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from driving import EchoModel, generate, make_core, request
from sampled_rows import (
    ROWS,
    VOCAB,
    new_sampler,
    parameters_of,
    sample,
    sequences,
)
from scipy import stats
from torch import Tensor

from atoll.sampling import sampler as sampler_module
from atoll.sampling.sampler import draw, is_fused, most_likely, uniforms
from atoll.sampling.warpers import WarperParameters, shortlist, warp

GPU = torch.device("cuda")


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_row_that_is_not_finite_ends_its_sequence_alone(do_sample: bool, logits: Tensor) -> None:
    """The rows of a draft count, too: a guess may be right by chance."""
    made = sequences([([1], [])] * 3, [{"do_sample": do_sample}] * 3)
    made[1].draft = [int(logits[1].argmax())]
    logits[2, 7] = math.nan
    logits[3] = math.inf
    found = sample(new_sampler(), made, logits[:4])
    assert [result is None for result in found] == [False, True, True]


@pytest.mark.parametrize("logprobs", [False, True])
@pytest.mark.parametrize("do_sample", [False, True])
def test_a_banned_token_is_never_taken(do_sample: bool, logprobs: bool, logits: Tensor) -> None:
    """Where options left nothing, the first token of the vocabulary was taken."""
    every = tuple((token, -math.inf) for token in range(VOCAB))
    ends = {"min_new_tokens": 9, "eos_token_ids": frozenset(range(1, VOCAB))}
    options: list[dict[str, Any]] = [
        {"logit_bias": every}, {}, {"no_repeat_ngram_size": 1},
        {**ends, "logit_bias": ((0, -math.inf),)}, {"logit_bias": every[1:]},
    ]  # fmt: skip
    contexts = [([1], []), ([1], []), (list(range(VOCAB)), []), ([1], []), ([1], [])]
    options = [{**o, "do_sample": do_sample, "logprobs": logprobs} for o in options]
    made = sequences(contexts, options)
    found = sample(new_sampler(), made, logits[:5].clone())
    assert [result == [] for result in found] == [True, False, True, True, False]
    assert found[1] and found[4] and [t.id for t in found[4]] == [0]
    # A row of a draft that leaves nothing ends the draft, not the text.
    draft = sequences([([1], [])], [{"logit_bias": every[1:], "do_sample": do_sample}])
    draft[0].draft = [0]
    rows = logits[:2].clone()
    rows[1, 1:] = 3.0
    rows[1, 0] = -math.inf
    (drafted,) = sample(new_sampler(), draft, rows)
    assert drafted and [t.id for t in drafted] == [0]


@pytest.mark.parametrize("draft", [[], [5]])
@pytest.mark.parametrize("do_sample", [False, True])
def test_a_row_of_minus_infinity_is_the_models_failure(
    do_sample: bool, draft: list[int], logits: Tensor
) -> None:
    """Not that of the options, which could leave no token either."""
    banned = {"logit_bias": ((0, -math.inf),), "do_sample": do_sample}
    made = sequences([([1], [])], [banned])
    made[0].draft = draft
    logits[0] = -math.inf
    assert sample(new_sampler(), made, logits[: 1 + len(draft)]) == [None]


def test_draws_follow_the_distribution() -> None:
    """Chi-square over 40,000 draws from 12 tokens and some of probability 0."""
    count = 40_000
    row = torch.randn(16, generator=torch.Generator().manual_seed(4))
    row[[2, 5, 15]] = float("-inf")
    points = torch.tensor(uniforms(np.full(count, 99, np.uint64), np.arange(count)))
    found = torch.cat([draw(row.expand(len(p), -1), p) for p in points.split(4000)])
    seen = torch.bincount(found, minlength=16).double()
    expected = row.softmax(-1).double() * count
    assert (seen[expected == 0] == 0).all()
    kept = expected > 0
    result = stats.chisquare(
        seen[kept].numpy(), expected[kept].numpy() / expected[kept].sum().item() * count
    )
    assert result.pvalue > 1e-3


def test_a_shortlist_draws_what_the_whole_vocabulary_draws(logits: Tensor) -> None:
    chosen = [
        {"top_k": 1 + 9 * i, "temperature": 0.5 + i, "top_p": 1 - i / 10, "min_p": i / 100,
         "typical_p": 1 - i / 20}
        for i in range(ROWS)
    ]  # fmt: skip
    parameters = parameters_of(chosen, logits)
    few = shortlist(logits, parameters)
    assert few is not None and few[0].shape == (ROWS, 46)
    whole, scores = warp(logits, parameters), warp(few[0], parameters)
    for point in np.random.default_rng(0).random(300):
        points = torch.full((ROWS,), point, dtype=torch.float64)
        found = few[1].gather(-1, draw(scores, points).unsqueeze(-1)).squeeze(-1)
        assert found.tolist() == draw(whole, points).tolist()


def test_the_kernel_draws_what_sorting_draws(
    logits: Tensor,
    contexts: list[tuple[list[int], list[int]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a GPU's kernel draws, here its reference: the same tokens, whatever the batch."""
    sampler = new_sampler()
    limits: list[dict[str, Any]] = [
        {}, {"top_k": 7}, {"top_p": 0.8}, {"top_k": 20, "top_p": 0.5}, {"min_p": 0.1},
        {"typical_p": 0.5, "top_k": 9},
    ]  # fmt: skip
    asked: list[int] = []

    original = sampler_module.kernels.sample

    def counted(rows: Tensor, *rest: Any) -> Tensor:
        asked.append(len(rows))
        return original(rows, *rest)

    monkeypatch.setattr(sampler_module.kernels, "sample", counted)
    for seed in range(20):
        options = [{**o, "do_sample": True, "temperature": 0.7, "seed": seed} for o in limits]
        made = sequences(contexts, options)
        sorted_out = sample(sampler, made, logits.clone())
        assert not asked
        with monkeypatch.context() as patch:
            patch.setattr(sampler_module, "is_fused", lambda g, rows, _: is_fused(g, rows, GPU))
            assert sample(sampler, made, logits.clone()) == sorted_out
            assert sample(sampler, made[:4], logits[:4].clone()) == sorted_out[:4]
        assert asked == [4, 4]
        asked.clear()


def test_there_is_no_shortlist_where_top_k_does_not_say_it(logits: Tensor) -> None:
    def of(*ks: int) -> WarperParameters:
        return parameters_of([{"top_k": k} for k in ks], logits)

    assert shortlist(logits[:2], of(5, 0)) is None
    assert shortlist(logits[:2], of(5, 300)) is None
    assert shortlist(torch.zeros(2, VOCAB), of(5, 5)) is None


def test_seeds_give_independent_streams() -> None:
    """Neighbouring seeds and positions: uniform each, and without correlation."""
    seeds = np.arange(60, dtype=np.uint64).repeat(300)
    table = uniforms(seeds, np.tile(np.arange(300), 60)).reshape(60, 300)
    assert stats.kstest(table.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(table[:-1].ravel(), table[1:].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(table[:, :-1].ravel(), table[:, 1:].ravel())[0, 1]) < 0.03
    assert table.min() > 0 and table.max() < 1


class FlatModel(EchoModel):
    """The same distribution everywhere."""

    def logits(self, hidden: Tensor) -> Tensor:
        return torch.linspace(-1, 1, self.vocab_size).expand(len(hidden), -1).clone()


def test_samples_depend_on_the_seed_alone() -> None:
    """Alone, in any company, in chunks and after preemption: the same tokens for a seed."""
    options = {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "max_new_tokens": 20}
    alone = {s: generate(make_core(FlatModel()), [[1, 2]], seed=s, **options)[0] for s in range(4)}
    assert len({tuple(ids) for ids in alone.values()}) == 4
    core = make_core(FlatModel(), num_blocks=14, max_batch_prefill_tokens=3, prefix_caching=False)
    sinks = {}
    for seed in range(4):
        made, sinks[seed] = request([1, 2], seed=seed, **options)
        core.add(made)
        core.add(request([seed], 30, repetition_penalty=1.1)[0])
    while core.is_busy:
        core.step()
    assert core.stats().num_preemptions > 0
    assert {seed: sink.ids for seed, sink in sinks.items()} == alone


def test_mixed_batch_keeps_rows_apart(
    logits: Tensor, contexts: list[tuple[list[int], list[int]]]
) -> None:
    """Greedy, sampling and penalised rows in one batch get what each gets alone."""
    options: list[dict[str, Any]] = [
        {}, {"do_sample": True, "seed": 5}, {"repetition_penalty": 3.0},
        {"do_sample": True, "top_k": 2, "seed": 1}, {"logprobs": True, "top_logprobs": 3},
        {"do_sample": True, "watermark": True, "min_p": 0.1, "seed": 3},
    ]  # fmt: skip
    sampler, made = new_sampler(), sequences(contexts, options)
    together = sample(sampler, made, logits.clone())
    rows = zip(made, logits, strict=True)
    alone = [sample(sampler, [state], row[None].clone())[0] for state, row in rows]
    assert together == alone


def test_logprobs(logits: Tensor, contexts: list[tuple[list[int], list[int]]]) -> None:
    """Of the model's own distribution, whatever the processors and the temperature did."""
    options = [{"logprobs": True, "top_logprobs": i, "repetition_penalty": 1.5, "do_sample": True,
                "temperature": 0.5, "seed": i} for i in range(ROWS)]  # fmt: skip
    results = sample(new_sampler(), sequences(contexts, options), logits.clone())
    expected = logits.double().log_softmax(-1)
    for row, (tokens, ours) in enumerate(zip(results, expected, strict=True)):
        assert isinstance(tokens, list)
        (token,) = tokens
        assert token.logprob == pytest.approx(ours[token.id].item(), abs=1e-5)
        assert token.rank == int((ours > ours[token.id]).sum()) + 1
        best = ours.topk(row)
        assert [i for i, _ in token.top] == best.indices.tolist()
        assert [v for _, v in token.top] == pytest.approx(best.values.tolist(), abs=1e-5)


@pytest.mark.parametrize("vocab_size", [1, 255, 256, 257, 768, 1023, 49152])
def test_the_most_likely_is_the_first_of_the_largest(vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    scores = torch.randint(-9, 9, (7, vocab_size), generator=generator).float()
    scores[1, -1] = scores[2, vocab_size // 2] = 20.0
    scores[3] = -math.inf
    scores[4, -1], scores[5, 0] = math.nan, math.inf
    ids, usable = most_likely(scores.repeat(1, 2)[:, :vocab_size])
    largest = scores.amax(-1, keepdim=True)
    firsts = [row.tolist().index(True) for row in (scores == largest) | scores.isnan()]
    assert ids.tolist() == firsts
    assert usable.tolist() == [True, True, True, False, False, False, True]
