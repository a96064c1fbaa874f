"""Rows of logits and what samples from them, for tests beside transformers' processors."""

from typing import Any

import numpy as np
import torch
from driving import request
from torch import Tensor

from atoll.engine.output import read_tokens
from atoll.engine.request import RequestState, Token
from atoll.engine.sampling_rows import SamplingRows
from atoll.sampling import processors
from atoll.sampling.sampler import Sampler
from atoll.sampling.warpers import WarperParameters, warp
from atoll.sampling.watermark import Watermark

VOCAB = 400
ROWS = 6


def sequences(
    contexts: list[tuple[list[int], list[int]]], options: list[dict[str, Any]]
) -> list[RequestState]:
    made = []
    for (prompt, output), chosen in zip(contexts, options, strict=True):
        sequence = RequestState(request(prompt, 100, **chosen)[0])
        sequence.token_ids += output
        made.append(sequence)
    return made


def reference(
    processors: list[Any], contexts: list[tuple[list[int], list[int]]], logits: Tensor
) -> Tensor:
    """transformers, one row after the other."""
    rows = []
    for (prompt, output), row, processor in zip(contexts, logits, processors, strict=True):
        ids = torch.tensor([prompt + output])
        rows.append(processor(ids, row[None].clone())[0])
    return torch.stack(rows)


def process(made: list[RequestState], logits: Tensor) -> Tensor:
    ours = logits.clone()
    processors.process(ours, SamplingRows().build(made))
    return ours


def sample(sampler: Sampler, made: list[RequestState], logits: Tensor) -> list[list[Token] | None]:
    """The tokens of each sequence; None: its logits are not finite, []: its options leave none."""
    found = sampler.sample(logits, SamplingRows().build(made))
    tokens = iter(read_tokens(found.token_ids, found.logprobs))
    counts = found.num_accepted.tolist()
    return [None if count == 0 else [next(tokens) for _ in range(count)] for count in counts]


def new_sampler() -> Sampler:
    return Sampler(Watermark(VOCAB, 0.5, 2.0))


def parameters_of(options: list[dict[str, Any]], logits: Tensor) -> WarperParameters:
    made = sequences([([1], [])] * len(options), [{**o, "do_sample": True} for o in options])
    rows = np.arange(len(options))
    return WarperParameters.of(SamplingRows().build(made), rows, VOCAB, logits.device)


def warped(options: list[dict[str, Any]], logits: Tensor) -> Tensor:
    return warp(logits.clone(), parameters_of(options, logits))


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert torch.equal(ours.isinf(), theirs.isinf())
    kept = ~theirs.isinf()
    torch.testing.assert_close(ours[kept], theirs[kept], rtol=1e-6, atol=1e-6)
