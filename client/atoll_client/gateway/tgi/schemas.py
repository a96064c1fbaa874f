"""The bodies of TGI's routes: parameters, their limits, and TGI's error messages."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from atoll_client.errors import EmptyInputError, ValidationError
from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.generation import given
from atoll_client.gateway.core.schemas import Strict
from atoll_client.types import ModelInfo

# As in TGI before 2.0. Later versions generate until the context is full, which is rarely meant.
DEFAULT_MAX_NEW_TOKENS = 100


class Grammar(Strict):
    """The grammar that the answer has to follow."""

    type: Literal["json", "json_object", "regex", "json_schema"]
    value: Any


_CALLED = "it is called {} here"


class Parameters(Strict):
    """``parameters`` of POST /generate: TGI's, then those of transformers and other servers.

    By default, they are the model's.
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

    early_stopping: bool | Literal["never"] | None = None
    forced_bos_token_id: int | None = Field(default=None, ge=0)
    forced_eos_token_id: int | None = Field(default=None, ge=0)
    bad_words_ids: list[list[int]] | None = None
    begin_suppress_tokens: list[int] | None = None
    suppress_tokens: list[int] | None = None
    length_penalty: float | None = Field(default=None, ge=-10, le=10)
    logit_bias: dict[str, float] | None = None
    min_new_tokens: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0, le=1)
    no_repeat_ngram_size: int | None = Field(default=None, ge=0)
    num_beams: int | None = Field(default=None, ge=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    src_lang: str | None = None
    tgt_lang: str | None = None
    max_length: Any = refused(_CALLED.format("max_new_tokens"))
    max_time: Any = refused("close the connection instead")
    max_tokens: Any = refused(_CALLED.format("max_new_tokens"))
    min_length: Any = refused(_CALLED.format("min_new_tokens"))
    n: Any = refused(_CALLED.format("best_of"), 1)
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
    """Raises ValidationError with TGI's messages."""
    p = body.parameters
    if not body.inputs:
        raise EmptyInputError("`inputs` cannot be empty")
    _check_best_of(p, int(model.facts.get("max_best_of") or 2), is_stream)
    for name, (is_allowed, words) in _RANGES.items():
        value = getattr(p, name)
        _need(value is None or is_allowed(value), f"`{name}` {words}")
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


_POSITIVE = (lambda value: value > 0), "must be strictly positive"
_BETWEEN_0_AND_1 = (lambda value: 0 < value < 1), "must be > 0.0 and < 1.0"
# Parameters whose range does not depend on the model.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": _POSITIVE,
    "repetition_penalty": _POSITIVE,
    "frequency_penalty": ((lambda value: -2 <= value <= 2), "must be >= -2.0 and <= 2.0"),
    "top_k": _POSITIVE,
    "top_p": _BETWEEN_0_AND_1,
    "typical_p": _BETWEEN_0_AND_1,
    "max_new_tokens": _POSITIVE,
}


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
    """Whether a request samples: ``do_sample``, or any parameter of sampling, asks for it."""
    return p.do_sample or any(
        value is not None for value in (p.temperature, p.top_k, p.top_p, p.typical_p, p.min_p)
    )


def sampling(p: Parameters) -> dict[str, Any]:
    """The model's sampling options. Requests that sample get a seed, which details contain."""
    seed = secrets.randbits(63) if does_sample(p) and p.seed is None else p.seed
    return given(
        (
            ("max_tokens", p.max_new_tokens or DEFAULT_MAX_NEW_TOKENS),
            ("do_sample", does_sample(p)),
            ("seed", seed),
            ("min_tokens", p.min_new_tokens),
            ("stop", p.stop or None),
            ("include_stop_str_in_output", True if p.stop else None),
            ("watermark", p.watermark or None),
            ("top_logprobs", p.top_n_tokens or None),
            ("grammar", p.grammar.model_dump() if p.grammar else None),
            *((name, getattr(p, name)) for name in _SAME_NAMES),
        )
    )


# Options that have the same names in the models.
_SAME_NAMES = (
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "frequency_penalty",
    "logit_bias", "min_p", "no_repeat_ngram_size", "presence_penalty", "truncate", "adapter_id",
    "bad_words_ids", "begin_suppress_tokens", "suppress_tokens",
    "early_stopping", "forced_bos_token_id", "forced_eos_token_id", "length_penalty", "num_beams",
    "src_lang", "tgt_lang",
)  # fmt: skip


def _need(is_met: bool, message: str) -> None:
    if not is_met:
        raise ValidationError(message)
