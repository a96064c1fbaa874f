"""What chat completions and completions have in common: sampling options, usage, identity."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

import atoll_client
from atoll_client.errors import AtollError, ValidationError
from atoll_client.gateway.chat_formats.constraints import Constraint
from atoll_client.gateway.core.error_formats import openai_problem
from atoll_client.gateway.core.generation import adapter_of, given
from atoll_client.gateway.core.web import Request
from atoll_client.gateway.openai.answers import (
    CompletionTokensDetails,
    CompletionUsage,
    Identity,
    RunningUsage,
    StreamError,
)
from atoll_client.gateway.openai.schemas import SamplingFields
from atoll_client.types import Chunk, ModelInfo

FINGERPRINT = f"atoll-{atoll_client.__version__}"
# Options that have the same names in the models.
_SAME_NAMES = (
    "add_special_tokens", "bad_words_ids", "begin_suppress_tokens", "early_stopping",
    "forced_bos_token_id", "forced_eos_token_id", "frequency_penalty", "ignore_eos",
    "include_stop_str_in_output", "length_penalty", "logit_bias", "min_p", "min_tokens",
    "no_repeat_ngram_size", "num_beams", "presence_penalty", "repetition_penalty",
    "skip_special_tokens", "src_lang", "stop_token_ids", "suppress_tokens", "tgt_lang", "top_k",
    "top_p", "typical_p", "use_beam_search",
)  # fmt: skip


def sampling(
    body: SamplingFields, model: ModelInfo, request: Request, bound: Constraint | None
) -> dict[str, Any]:
    """The model's sampling options. OpenAI's default temperature is 1, but for a beam search.

    ``n`` is among them if one request to the model gives all answers. bound: the constraint of the
    answer.
    """
    temperature, is_search = body.temperature, _searches(body, model, bound)
    if temperature is None and not is_search:
        temperature = 1.0
    return given(
        (
            ("temperature", temperature),
            ("do_sample", None if temperature is None else temperature > 0),
            ("n", body.n if is_search else None),
            ("best_of", getattr(body, "best_of", None) if is_search else None),
            # OpenAI's seeds may be negative, the model's may not.
            ("seed", None if body.seed is None else body.seed % 2**63),
            ("stop", [body.stop] if isinstance(body.stop, str) else body.stop),
            ("prediction", body.prediction.text() if body.prediction else None),
            ("truncate", body.truncate_prompt_tokens),
            ("adapter_id", adapter_of(request, body.model, model)),
            *((name, getattr(body, name)) for name in _SAME_NAMES),
            *([bound] if bound else ()),
        )
    )


def _searches(body: SamplingFields, model: ModelInfo, bound: Constraint | None) -> bool:
    """Whether a request asks for a beam search, or leaves it to a model whose files do."""
    if body.num_beams is not None or body.use_beam_search is not None:
        return bool(body.use_beam_search) or (body.num_beams or 1) > 1
    by_files = model.facts.get("search") or {}
    return bool(by_files) and body.temperature is None and bound is None


def usage_wanted(body: SamplingFields) -> bool:
    """Whether a stream ends with its usage.

    Raises:
        ValidationError: the request has options of a stream and is none, or usage is wanted on the
            way but not at the end.
    """
    options = body.stream_options
    if options is None:
        return False
    if not body.stream:
        raise ValidationError.of("stream_options", "is set, but `stream` is not true")
    if options.continuous_usage_stats and not options.include_usage:
        raise ValidationError.of(
            "stream_options.continuous_usage_stats", "needs `include_usage` to be true"
        )
    return options.include_usage


def running_usage(body: SamplingFields, chunk: Chunk) -> RunningUsage | None:
    """The usage of an answer up to a chunk, if the request wants it in every event."""
    if body.stream_options is None or not body.stream_options.continuous_usage_stats:
        return None
    prompt, output = chunk.num_input_tokens, chunk.num_output_tokens
    return {
        "prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output,
    }  # fmt: skip


def identity(name: str, prefix: str) -> Identity:
    """The fields that are the same in all chunks of an answer."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": name,
        "system_fingerprint": FINGERPRINT,
    }


def usage(
    chunks: Sequence[Chunk],
    num_prompts: int = 1,
    *,
    has_prediction: bool = False,
    num_reasoning_tokens: int | None = None,
) -> CompletionUsage:
    """Tokens of all answers; a prompt counts once for all of its answers.

    num_reasoning_tokens: None: nothing is known of reasoning.
    """
    per_prompt = max(len(chunks) // max(num_prompts, 1), 1)
    prompt = sum(chunk.num_input_tokens for chunk in chunks[::per_prompt])
    cached = sum(chunk.num_cached_tokens for chunk in chunks[::per_prompt])
    output = sum(chunk.num_output_tokens for chunk in chunks)
    found: CompletionUsage = {
        "prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip
    details: CompletionTokensDetails = {}
    if num_reasoning_tokens is not None:
        details["reasoning_tokens"] = num_reasoning_tokens
    if has_prediction:
        details |= {
            "accepted_prediction_tokens": sum(chunk.num_accepted_tokens for chunk in chunks),
            "rejected_prediction_tokens": sum(chunk.num_rejected_tokens for chunk in chunks),
        }
    if details:
        found["completion_tokens_details"] = details
    return found


def failure(error: AtollError) -> StreamError:
    """The event that ends a stream which fails."""
    return {"error": {**openai_problem(error), "http_status_code": error.http_status}}
