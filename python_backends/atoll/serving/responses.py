"""Answers as Triton responses: one for a plain request, one per step for a stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from atoll.engine.request import Token
from atoll.serving.answers import Call, Choice, Progress
from atoll.serving.tensors import Array, response

Decode = Callable[[int], str]
IsSpecial = Callable[[int], bool]


def final_response(call: Call, decode: Decode, is_special: IsSpecial) -> Any:
    """The whole answer, or the end of a stream; the text may be empty, the response is not."""
    choices = call.best()
    progress = [choice.take() for choice in choices]
    outputs = _outputs(call, choices, progress, decode, is_special)
    return response(outputs)


def stream_response(
    call: Call, decode: Decode, is_special: IsSpecial, empty: bool = False
) -> Any | None:
    """What a stream has gained; None if that is nothing a client can use yet."""
    choice = call.choices[0]
    progress = choice.take()
    wants_tokens = call.returned.token_ids or call.returned.logprobs
    if not (progress.text or empty or (progress.tokens and wants_tokens)):
        return None
    return response(_outputs(call, [choice], [progress], decode, is_special))


def _outputs(
    call: Call,
    choices: Sequence[Choice],
    progress: Sequence[Progress],
    decode: Decode,
    is_special: IsSpecial,
) -> dict[str, Array]:
    returned = call.returned
    outputs: dict[str, Array] = {"text_output": _texts([call.prefix + p.text for p in progress])}
    if returned.finish_reason:
        outputs["finish_reason"] = _texts([c.finish_reason for c in choices])
        outputs["stop_reason"] = _texts([c.stop_string or "" for c in choices])
    if returned.cumulative_logprob:
        values = [choice.cumulative_logprob for choice in choices]
        outputs["cumulative_logprob"] = np.array(values, np.float32)
    if returned.logprobs:
        details = [_details(p.tokens, decode, is_special) for p in progress]
        outputs["logprobs"] = _texts(details)
    if returned.prompt_logprobs and call.prompt_tokens:
        outputs["prompt_logprobs"] = _texts([_details(call.prompt_tokens, decode, is_special)])
        call.prompt_tokens = []  # they are sent once
    if returned.num_input_tokens:
        outputs["num_input_tokens"] = np.array([call.num_input_tokens] * len(choices), np.uint32)
    if returned.num_output_tokens:
        counts = [choice.num_output_tokens for choice in choices]
        outputs["num_output_tokens"] = np.array(counts, np.uint32)
    if returned.token_ids:
        ids = [token.id for p in progress for token in p.tokens]
        outputs["token_ids"] = np.array(ids, np.int32)
    return outputs


def _details(tokens: Sequence[Token], decode: Decode, is_special: IsSpecial) -> str:
    """vLLM's form: a list with one object per token, keyed by id, the token itself first."""
    found = []
    for token in tokens:
        entry = {
            str(token.id): {
                "logprob": token.logprob,
                "rank": token.rank,
                "decoded_token": decode(token.id),
                "special": is_special(token.id),
            }
        }
        for rank, (token_id, logprob) in enumerate(token.top, 1):
            entry.setdefault(
                str(token_id),
                {"logprob": logprob, "rank": rank, "decoded_token": decode(token_id),
                 "special": is_special(token_id)},
            )  # fmt: skip
        found.append(entry)
    return json.dumps(found, ensure_ascii=False)


def _texts(texts: Sequence[str]) -> Array:
    return np.array([text.encode() for text in texts], dtype=np.object_)
