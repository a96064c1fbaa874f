"""Tokens for the sinks, from the arrays of a step's output."""

from __future__ import annotations

from collections.abc import Sequence

from atoll.engine.request import RequestState, Token
from atoll.errors import AtollError, GenerationError, ValidationError
from atoll.sampling.inputs import Ints, TokenLogprobs


def read_tokens(
    ids: Sequence[int] | Ints, found: TokenLogprobs | None, start: int = 0
) -> list[Token]:
    """Tokens with their log-probabilities, which begin at row ``start`` of ``logprobs``."""
    numbers = ids if isinstance(ids, Sequence) else ids.tolist()
    if found is None:
        return [Token(i) for i in numbers]
    rows = slice(start, start + len(numbers))
    columns = (found.logprobs, found.ranks, found.num_top, found.top_ids, found.top_logprobs)
    return [
        Token(i, logprob, rank, tuple(zip(ids[:num], values[:num], strict=True)))
        if rank
        else Token(i)
        for i, logprob, rank, num, ids, values in zip(
            numbers, *(column[rows].tolist() for column in columns), strict=True
        )
    ]


def missing_token(sequence: RequestState, num_given: int) -> AtollError:
    """The error of a request that got no token in a step; ``num_given`` as in ``Sampled``."""
    if num_given == 0:
        return GenerationError("the model's logits are not finite")
    if sequence.matcher is not None:
        return sequence.matcher.refusal()
    return ValidationError(
        f"the answer cannot go on after {sequence.num_output_tokens} tokens: options of the "
        "request, and tokens that the model's files ban, leave none"
    )
