"""What OpenAI's chats and completions have in common: sampling options, usage, identity."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from pydantic import Field

import atoll_client
from atoll_client.errors import ValidationError
from atoll_client.gateway import dialects
from atoll_client.gateway.bodies import Strict
from atoll_client.gateway.generation import given
from atoll_client.gateway.http import Request, dump
from atoll_client.types import Chunk, ModelInfo

FINGERPRINT = f"atoll-{atoll_client.__version__}"
# OpenAI's own limit; each answer is a generation of its own.
_MAX_N = 128


class StreamOptions(Strict):
    """``stream_options``."""

    include_usage: bool = False


class SamplingBody(Strict):
    """Options of both routes; those below ``user`` are what vLLM adds."""

    model: str | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = None
    n: int = Field(1, ge=1, le=_MAX_N)
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions = Field(default_factory=StreamOptions)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    user: str | None = None
    guided_choice: list[str] | None = Field(None, min_length=1)
    guided_grammar: str | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    ignore_eos: bool | None = None
    min_p: float | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    skip_special_tokens: bool | None = None
    stop_token_ids: list[int] | None = None
    top_k: int | None = None


def sampling(body: SamplingBody, model: ModelInfo, request: Request) -> dict[str, Any]:
    """As the model names its options. OpenAI's temperature is 1 if it is not given."""
    temperature = 1.0 if body.temperature is None else body.temperature
    adapter = next((n for n in (request.model, body.model) if n in model.adapters), None)
    if body.seed is not None and not -(2**63) <= body.seed < 2**63:
        raise ValidationError(f"`seed` is {body.seed}; expected a 64-bit integer")
    options = given(
        (
            ("temperature", temperature),
            ("do_sample", temperature > 0),
            ("top_p", body.top_p),
            ("frequency_penalty", body.frequency_penalty),
            ("presence_penalty", body.presence_penalty),
            ("logit_bias", body.logit_bias),
            # A seed may be negative there, not in the model.
            ("seed", None if body.seed is None else body.seed % 2**63),
            ("stop", [body.stop] if isinstance(body.stop, str) else body.stop),
            ("guided_grammar", body.guided_grammar or _one_of(body.guided_choice)),
            ("guided_json", body.guided_json),
            ("guided_regex", body.guided_regex),
            ("ignore_eos", body.ignore_eos),
            ("min_p", body.min_p),
            ("min_tokens", body.min_tokens),
            ("repetition_penalty", body.repetition_penalty),
            ("skip_special_tokens", body.skip_special_tokens),
            ("stop_token_ids", body.stop_token_ids),
            ("top_k", body.top_k),
            ("adapter_id", adapter),
        )
    )
    return options


def _one_of(choices: Sequence[str] | None) -> str | None:
    """A grammar of these texts; its literals are written as JSON's."""
    if choices is None:
        return None
    return "root ::= " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)


def identity(kind: str, name: str, prefix: str) -> dict[str, Any]:
    """The members that begin every answer."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": name,
        "system_fingerprint": FINGERPRINT,
    }


def usage(chunks: Sequence[Chunk], num_prompts: int = 1) -> dict[str, int]:
    """Tokens of all answers; a prompt counts once for all of its answers."""
    per_prompt = max(len(chunks) // max(num_prompts, 1), 1)
    prompt = sum(chunk.num_input_tokens for chunk in chunks[::per_prompt])
    output = sum(chunk.num_output_tokens for chunk in chunks)
    return {
        "prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output,
    }  # fmt: skip


def failure(error: Exception) -> bytes:
    """The event of a stream that fails; TGI's clients look for the status inside."""
    found = dialects.body("openai", dialects.as_ours(error))
    found["error"]["http_status_code"] = dialects.as_ours(error).http_status
    return dump(found)
