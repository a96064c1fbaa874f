"""Text Generation Inference's request: its parameters, their limits, and its words for them."""

from __future__ import annotations

import secrets
from typing import Any, Literal

from pydantic import Field

from atoll_client.errors import EmptyInputError, ValidationError
from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.generation import given
from atoll_client.gateway.core.schemas import Strict
from atoll_client.types import ModelInfo

# TGI before 2.0; later ones go on until the context is full, which few callers mean.
DEFAULT_MAX_NEW_TOKENS = 100


class Grammar(Strict):
    """What the answer has to look like."""

    type: Literal["json", "json_object", "regex", "json_schema"]
    value: Any


_NO_BEAMS = "there is no beam search"
_CALLED = "it is called {} here"


class Parameters(Strict):
    """``parameters`` of POST /generate: TGI's, then those of Hugging Face's other generators.

    Unset ones are the model's defaults.
    """

    adapter_id: str | None = None
    best_of: int | None = None
    decoder_input_details: bool = False
    details: bool = False
    do_sample: bool = False
    frequency_penalty: float | None = None
    grammar: Grammar | None = None
    max_new_tokens: int | None = None
    repetition_penalty: float | None = None
    return_full_text: bool | None = None
    seed: int | None = None
    stop: list[str] = Field(default_factory=list)
    temperature: float | None = None
    top_k: int | None = None
    top_n_tokens: int | None = None
    top_p: float | None = None
    truncate: int | None = None
    typical_p: float | None = None
    watermark: bool = False

    logit_bias: dict[str, float] | None = None
    min_new_tokens: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0, le=1)
    no_repeat_ngram_size: int | None = Field(default=None, ge=0)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    early_stopping: Any = refused(_NO_BEAMS, False)
    length_penalty: Any = refused(_NO_BEAMS, 1, 1.0)
    max_length: Any = refused(_CALLED.format("max_new_tokens"))
    max_time: Any = refused("close the connection instead")
    max_tokens: Any = refused(_CALLED.format("max_new_tokens"))
    min_length: Any = refused(_CALLED.format("min_new_tokens"))
    n: Any = refused(_CALLED.format("best_of"), 1)
    num_beams: Any = refused(_NO_BEAMS, 1)
    num_return_sequences: Any = refused(_CALLED.format("best_of"), 1)
    stop_sequences: Any = refused(_CALLED.format("stop"), [])
    use_cache: bool | None = no_effect("it only affects speed")


class GenerateBody(Strict):
    """POST /generate, /generate_stream and /."""

    inputs: str
    parameters: Parameters = Field(default_factory=Parameters)
    stream: bool = False
    model: str | None = None


def check(body: GenerateBody, model: ModelInfo, is_stream: bool) -> None:
    """Raises ValidationError with TGI's message."""
    p = body.parameters
    if not body.inputs:
        raise EmptyInputError("`inputs` cannot be empty")
    _check_best_of(p, int(model.facts.get("max_best_of") or 2), is_stream)
    _need(p.temperature is None or p.temperature > 0, "`temperature` must be strictly positive")
    _need(
        p.repetition_penalty is None or p.repetition_penalty > 0,
        "`repetition_penalty` must be strictly positive",
    )
    _need(
        p.frequency_penalty is None or -2 <= p.frequency_penalty <= 2,
        "`frequency_penalty` must be >= -2.0 and <= 2.0",
    )
    _need(p.top_k is None or p.top_k > 0, "`top_k` must be strictly positive")
    _need(p.top_p is None or 0 < p.top_p < 1, "`top_p` must be > 0.0 and < 1.0")
    _need(p.typical_p is None or 0 < p.typical_p < 1, "`typical_p` must be > 0.0 and < 1.0")
    _need(
        p.max_new_tokens is None or p.max_new_tokens > 0,
        "`max_new_tokens` must be strictly positive",
    )
    most = int(model.facts.get("max_stop_sequences", 4))
    _need(
        len(p.stop) <= most,
        f"`stop` supports up to {most} stop sequences. Given: {len(p.stop)}",
    )
    longest = model.max_input_tokens
    _need(
        p.truncate is None or 0 < p.truncate <= longest,
        f"`truncate` must be strictly positive and less than {longest}. Given: {p.truncate}",
    )
    most = int(model.facts.get("max_top_n_tokens", 5))
    _need(
        p.top_n_tokens is None or 0 <= p.top_n_tokens <= most,
        f"`top_n_tokens` must be >= 0 and <= {most}. Given: {p.top_n_tokens}",
    )
    _need(
        not (is_stream and p.decoder_input_details),
        "`decoder_input_details` == true is not supported when streaming tokens",
    )
    _need(p.seed is None or 0 <= p.seed < 2**64, f"`seed` must be an u64. Given: {p.seed}")


def _check_best_of(p: Parameters, most: int, is_stream: bool) -> None:
    if p.best_of is None:
        return
    _need(0 < p.best_of <= most, f"`best_of` must be > 0 and <= {most}. Given: {p.best_of}")
    if p.best_of == 1:
        return
    _need(does_sample(p), "you must use sampling when `best_of` is > 1")
    _need(p.seed is None, "`seed` must not be set when `best_of` > 1")
    _need(not is_stream, "`best_of` != 1 is not supported when streaming tokens")


def does_sample(p: Parameters) -> bool:
    """Any of the warpers makes a request sample, as well as saying so."""
    return p.do_sample or any(
        value is not None for value in (p.temperature, p.top_k, p.top_p, p.typical_p, p.min_p)
    )


def sampling(p: Parameters) -> dict[str, Any]:
    """As the model names its options. A request that samples gets a seed, so it can be told."""
    seed = p.seed
    if does_sample(p) and seed is None:
        seed = secrets.randbits(63)
    return given(
        (
            ("max_tokens", p.max_new_tokens or DEFAULT_MAX_NEW_TOKENS),
            ("do_sample", does_sample(p)),
            ("seed", seed),
            ("temperature", p.temperature),
            ("top_k", p.top_k),
            ("top_p", p.top_p),
            ("typical_p", p.typical_p),
            ("repetition_penalty", p.repetition_penalty),
            ("frequency_penalty", p.frequency_penalty),
            ("logit_bias", p.logit_bias),
            ("min_tokens", p.min_new_tokens),
            ("min_p", p.min_p),
            ("no_repeat_ngram_size", p.no_repeat_ngram_size),
            ("presence_penalty", p.presence_penalty),
            ("stop", p.stop or None),
            ("include_stop_str_in_output", True if p.stop else None),
            ("truncate", p.truncate),
            ("watermark", p.watermark or None),
            ("top_logprobs", p.top_n_tokens or None),
            ("adapter_id", p.adapter_id),
            ("grammar", p.grammar.model_dump() if p.grammar else None),
        )
    )


def _need(is_met: bool, message: str) -> None:
    if not is_met:
        raise ValidationError(message)
