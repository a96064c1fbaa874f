"""Tokens for the sinks, from the arrays of a step's output, and how requests end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from atoll.engine.kv_cache import KVCacheManager
from atoll.engine.plan import StepPlan
from atoll.engine.request import FinishReason, RequestState, Token
from atoll.errors import AtollError, GenerationError, ValidationError
from atoll.sampling.inputs import Ints, TokenLogprobs


class Finish(NamedTuple):
    """A request that has all of its tokens, and its finish reason."""

    state: RequestState
    reason: FinishReason


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


def read_prompts(
    plan: StepPlan, states: Mapping[str, RequestState], prompts: TokenLogprobs | None
) -> None:
    """Collects the log-probabilities of prompts until their last chunk is computed."""
    start = 0
    for row in plan if prompts is not None else ():
        if row.num_scored:
            sequence, first = states[row.request_id].members[row.beam], row.num_computed_tokens + 1
            ids = sequence.token_ids[first : first + row.num_scored]
            found = read_tokens(ids, prompts, start)
            sequence.prompt_logprobs = sequence.prompt_logprobs[:first] + found
            start += row.num_scored


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


def no_room(sequence: RequestState, cache: KVCacheManager) -> AtollError:
    """The error of a request that does not fit even into an empty cache."""
    request = sequence.request
    if sequence.beams:
        return ValidationError(
            f"num_beams is {request.options.num_beams}: with as many continuations, the request "
            f"needs more than the {cache.num_blocks} blocks of {cache.block_size} tokens that the "
            "KV cache has"
        )
    lengths = len(request.encoder_ids), sequence.num_tokens + 1
    return ValidationError(
        f"the request needs {sum(map(cache.num_blocks_for, lengths))} blocks of "
        f"{cache.block_size} tokens; the KV cache has {cache.num_blocks}"
    )
