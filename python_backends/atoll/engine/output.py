"""Tokens for the sinks, from the arrays of a step's output."""

from __future__ import annotations

from collections.abc import Sequence

from atoll.engine.request import Token
from atoll.sampling.inputs import Ints, TokenLogprobs


def read_tokens(
    ids: Sequence[int] | Ints, found: TokenLogprobs | None, start: int = 0
) -> list[Token]:
    """Tokens with their log-probabilities, which begin at row ``start`` of what was found."""
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
