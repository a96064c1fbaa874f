"""Every sampling option against transformers' processors on the same logits, value by value."""

import numpy as np
import pytest
import torch
import transformers as hf
from sampled_rows import (
    ROWS,
    VOCAB,
    assert_same,
    new_sampler,
    parameters_of,
    process,
    reference,
    sample,
    sequences,
    warped,
)
from torch import Tensor

from atoll.engine.request import Token
from atoll.engine.sampling_rows import SamplingRows
from atoll.sampling.warpers import warp

# Option -> values by row, and the processor that does the same.
PENALTIES = {
    "repetition_penalty": (
        [1.0, 1.3, 0.7, 2.0, 1.1, 1.0],
        lambda v, n: hf.RepetitionPenaltyLogitsProcessor(penalty=v),
    ),
    "no_repeat_ngram_size": (
        [0, 1, 2, 3, 2, 4],
        lambda v, n: hf.NoRepeatNGramLogitsProcessor(v) if v else hf.LogitsProcessorList(),
    ),
    "logit_bias": (
        [(), ((3, 5.0),), ((7, -100.0), (3, 2.5)), (), ((0, 1.0),), ((399, 9.0),)],
        lambda v, n: (
            hf.SequenceBiasLogitsProcessor({(t,): b for t, b in v}) if v
            else hf.LogitsProcessorList()
        ),
    ),
    "min_new_tokens": (
        [0, 4, 6, 9, 30, 16],
        lambda v, n: hf.MinNewTokensLengthLogitsProcessor(n, v, [2, 5]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PENALTIES)
def test_processors(name: str, logits: Tensor, contexts: list[tuple[list[int], list[int]]]) -> None:
    values, build = PENALTIES[name]
    options = [{name: v, "eos_token_ids": frozenset([2, 5])} for v in values]
    theirs = [build(v, len(prompt)) for v, (prompt, _) in zip(values, contexts, strict=True)]
    ours = process(sequences(contexts, options), logits)
    assert_same(ours, reference(theirs, contexts, logits))
    assert not torch.equal(ours, logits)


def test_openai_penalties(logits: Tensor, contexts: list[tuple[list[int], list[int]]]) -> None:
    """OpenAI's formula: logit - count * frequency - (count > 0) * presence, of the output alone."""
    options = [{"frequency_penalty": 0.3 * i, "presence_penalty": -0.2 * i} for i in range(ROWS)]
    expected = logits.clone()
    for row, ((_, output), o) in enumerate(zip(contexts, options, strict=True)):
        for token in set(output):
            expected[row, token] -= output.count(token) * o["frequency_penalty"]
            expected[row, token] -= o["presence_penalty"]
    assert_same(process(sequences(contexts, options), logits), expected)


WARPERS = {
    "temperature": ([1.0, 0.2, 0.7, 1.5, 3.0, 1.0], hf.TemperatureLogitsWarper),
    "top_k": ([0, 1, 5, 50, 399, 1000], hf.TopKLogitsWarper),
    "top_p": ([1.0, 0.01, 0.3, 0.8, 0.95, 0.999], hf.TopPLogitsWarper),
    "min_p": ([0.0, 0.01, 0.1, 0.5, 0.9, 1.0], hf.MinPLogitsWarper),
    "typical_p": ([1.0, 0.05, 0.2, 0.5, 0.9, 0.99], hf.TypicalLogitsWarper),
}

NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}


@pytest.mark.parametrize("spread", [0.05, 1.0, 4.0])
@pytest.mark.parametrize("name", WARPERS)
def test_warpers(
    name: str, spread: float, logits: Tensor, contexts: list[tuple[list[int], list[int]]]
) -> None:
    """Flat and peaked distributions; the flat ones do not fit into a small nucleus."""
    logits = logits * spread / 4
    values, build = WARPERS[name]
    theirs = [build(v) if v != NEUTRAL[name] else hf.LogitsProcessorList() for v in values]
    ours = warped([{name: v} for v in values], logits)
    assert_same(ours, reference(theirs, contexts, logits))


def test_a_single_neutral_row_is_left_alone(logits: Tensor) -> None:
    options = [{}] + [{"top_k": 3, "top_p": 0.5, "min_p": 0.2, "typical_p": 0.4}] * (ROWS - 1)
    ours = warped(options, logits)
    assert torch.equal(ours[0], logits[0])
    assert (ours[1:].isfinite().sum(-1) >= 1).all()


def test_order_is_that_of_transformers(
    logits: Tensor, contexts: list[tuple[list[int], list[int]]]
) -> None:
    """Everything at once, against the list that ``generate`` itself builds."""
    made = {
        "repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "min_new_tokens": 10,
        "temperature": 0.8, "top_k": 60, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.9,
    }  # fmt: skip
    model = hf.LlamaForCausalLM(
        hf.LlamaConfig(vocab_size=VOCAB, hidden_size=8, intermediate_size=8,
                       num_hidden_layers=1, num_attention_heads=1)
    )  # fmt: skip
    theirs = []
    for prompt, _ in contexts:
        config = hf.GenerationConfig(
            do_sample=True, sequence_bias=[[[4], 3.0]], eos_token_id=2, max_new_tokens=64, **made
        )
        model._prepare_special_tokens(config, True, device="cpu")
        theirs.append(
            model._get_logits_processor(
                config,
                input_ids_seq_length=len(prompt),
                prefix_allowed_tokens_fn=None,
                logits_processor=hf.LogitsProcessorList(),
                device="cpu",
            )  # fmt: skip
        )
    kinds = [type(p).__name__ for p in theirs[0]]
    assert len(kinds) == 9, kinds
    options = [
        {**made, "do_sample": True, "logit_bias": ((4, 3.0),), "eos_token_ids": frozenset([2])}
    ] * ROWS
    ours = process(sequences(contexts, options), logits)
    ours = warp(ours, parameters_of(options, logits))
    assert_same(ours, reference(theirs, contexts, logits))


@pytest.mark.parametrize(
    "option", [{"temperature": 1e-40}, {"temperature": 1e-300}, {"top_p": 1e-60}]
)
@pytest.mark.parametrize("top_k", [0, 5])
def test_values_too_small_for_float32(option: dict[str, float], top_k: int, logits: Tensor) -> None:
    """Scores over such a temperature were infinite, and the vocabulary's last token was drawn."""
    options = [{"do_sample": True, "seed": i, "top_k": top_k, **option} for i in range(ROWS)]
    made = sequences([([1], [])] * ROWS, options)
    found = sample(new_sampler(), made, logits.clone())
    assert found == [[Token(i)] for i in logits.argmax(-1).tolist()]


def test_watermark(logits: Tensor, contexts: list[tuple[list[int], list[int]]]) -> None:
    theirs = hf.generation.logits_process.WatermarkLogitsProcessor(
        VOCAB, "cpu", greenlist_ratio=0.5, bias=2.0, hashing_key=15485863,
        seeding_scheme="lefthash", context_width=1,
    )  # fmt: skip
    made = sequences(contexts, [{"watermark": i % 2 == 0} for i in range(ROWS)])
    ours = logits.clone()
    new_sampler()._mark(ours, SamplingRows().build(made), np.arange(ROWS))
    expected = reference([theirs] * ROWS, contexts, logits)
    assert_same(ours[::2], expected[::2])
    assert torch.equal(ours[1::2], logits[1::2])
