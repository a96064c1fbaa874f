"""Answers as tensors of Triton responses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from atoll.serving.requests.generation_request import Completion, GenerationRequest, TokenText
from atoll.serving.triton.tensors import Array, texts
from atoll.text.vocabulary import Vocabulary

# Stands for minus infinity in JSON, as in vLLM and OpenAI.
_LEAST_LOGPROB = -9999.0


def responses(
    request: GenerationRequest, vocabulary: Vocabulary, even_if_empty: bool = False
) -> list[dict[str, Array]]:
    """The whole answer, the end of a stream, or what the stream has gained.

    The text of the last response may be empty; before it, there may be no response, as long as
    there is nothing that a client can use.
    """
    if request.is_complete:
        completions = request.best()
        return [_outputs(request, completions, [c.take() for c in completions], vocabulary)]
    # Without completions, the prompt is not tokenized yet; at a stop string, the end follows.
    if not request.completions or request.completions[0].stop_string is not None:
        return []
    completion = request.completions[0]
    gained = completion.take()
    wants_tokens = request.returned.token_ids or request.returned.logprobs
    if not (even_if_empty or any(wants_tokens or one.text for one in gained)):
        return []
    return [_outputs(request, [completion], [gained], vocabulary)]


def _outputs(
    request: GenerationRequest,
    completions: Sequence[Completion],
    gained: Sequence[Sequence[TokenText]],
    vocabulary: Vocabulary,
) -> dict[str, Array]:
    returned = request.returned
    answers = (request.prefix + "".join(one.text for one in tokens) for tokens in gained)
    outputs: dict[str, Array] = {"text_output": texts(answers)}
    if returned.finish_reason:
        outputs["finish_reason"] = texts([c.finish_reason for c in completions])
        outputs["stop_reason"] = texts([c.stop_string or "" for c in completions])
    if returned.cumulative_logprob:
        values = [completion.cumulative_logprob for completion in completions]
        outputs["cumulative_logprob"] = np.array(values, np.float32)
    if returned.logprobs:
        outputs["logprobs"] = texts([_details(tokens, vocabulary) for tokens in gained])
    if returned.prompt_logprobs and request.prompt_tokens:
        outputs["prompt_logprobs"] = texts([_details(request.prompt_tokens, vocabulary)])
        request.prompt_tokens = []  # they are sent once
    if request.reasoning_state is not None:
        outputs["reasoning_state"] = texts([request.reasoning_state] * len(completions))
        request.reasoning_state = None  # it is sent once
    if returned.num_input_tokens:
        outputs["num_input_tokens"] = np.array(
            [request.num_input_tokens] * len(completions), np.uint32
        )
    if returned.num_output_tokens:
        counts = [completion.num_output_tokens for completion in completions]
        outputs["num_output_tokens"] = np.array(counts, np.uint32)
    if returned.num_cached_tokens:
        counts = [c.outcome.num_cached_tokens if c.outcome else 0 for c in completions]
        outputs["num_cached_tokens"] = np.array(counts, np.uint32)
    if returned.num_accepted_tokens:
        ended = [c.outcome for c in completions]
        accepted = [o.num_accepted_tokens if o else 0 for o in ended]
        rejected = [o.num_rejected_tokens if o else 0 for o in ended]
        outputs["num_accepted_tokens"] = np.array(accepted, np.uint32)
        outputs["num_rejected_tokens"] = np.array(rejected, np.uint32)
    if returned.token_ids:
        ids = [one.token.id for tokens in gained for one in tokens]
        outputs["token_ids"] = np.array(ids, np.int32)
    return outputs


def _details(tokens: Sequence[TokenText], vocabulary: Vocabulary) -> str:
    """vLLM's format: a list with one object per token, keyed by id, the token itself first.

    decoded_token: the token's part of the text, so that those of all tokens add up to it; for an
        alternative, its text in the same place.
    token, bytes: the name of a special token without text; the token's bytes, if they differ from
        those of its text.
    """
    return json.dumps([_entry(one, vocabulary) for one in tokens], ensure_ascii=False)


def _entry(one: TokenText, vocabulary: Vocabulary) -> dict[str, dict[str, Any]]:
    token, text, is_first = one
    special = vocabulary.is_special(token.id)
    data = vocabulary.token_bytes(token.id, is_first)
    own: dict[str, Any] = {
        "logprob": _finite(token.logprob), "rank": token.rank, "decoded_token": text,
        "special": special,
    }  # fmt: skip
    if special and not text:
        own |= {"token": data.decode(errors="replace"), "bytes": []}
    elif data != text.encode():
        own["bytes"] = list(data)
    found = {str(token.id): own}
    for rank, (token_id, logprob) in enumerate(token.top, 1):
        if str(token_id) not in found:
            found[str(token_id)] = _alternative(token_id, logprob, rank, is_first, vocabulary)
    return found


def _alternative(
    token_id: int, logprob: float, rank: int, is_first: bool, vocabulary: Vocabulary
) -> dict[str, Any]:
    text = vocabulary.shown(token_id, is_first)
    data = vocabulary.token_bytes(token_id, is_first)
    found: dict[str, Any] = {
        "logprob": _finite(logprob), "rank": rank, "decoded_token": text,
        "special": vocabulary.is_special(token_id),
    }  # fmt: skip
    return found if data == text.encode() else {**found, "bytes": list(data)}


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, _LEAST_LOGPROB)
