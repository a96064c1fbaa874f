"""Reads generation options, under the names of vLLM, OpenAI and TGI.

They are in the ``sampling_parameters`` tensor (JSON) and in request parameters (scalars); the
tensor takes precedence. Numbers may be text. Unknown names and values out of range are refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.config import Settings
from atoll.engine.limits import EngineLimits
from atoll.engine.request import SamplingOptions
from atoll.errors import ValidationError
from atoll.serving.requests.option_names import CHAT_NAMES, canonical, json_object
from atoll.serving.requests.option_reader import OptionReader
from atoll.serving.requests.priority import MAX_PRIORITY
from atoll.serving.requests.search_options import (
    CONSTRAINTS,
    does_sample,
    early_stopping,
    length_penalty,
    with_search,
)
from atoll.serving.requests.token_options import read_bias, read_ids, read_unwanted
from atoll.text.chat_options import ChatOptions
from atoll.text.reasoning import ReasoningMarks

# vllm_backend's default, so that clients written for it get answers of the same length.
DEFAULT_MAX_TOKENS = 16

# OpenAI's limit, which its clients may rely on; TGI's default is lower.
_OPENAI_TOP_LOGPROBS = 20


@dataclass(frozen=True)
class GenerateOptions:
    """A request's options, checked, but without regard to the prompt's length.

    n, best_of: answers that are returned, and that are generated; a search returns its n best ones.
    max_tokens: None: as many as fit, or, if has_usual_length, as the checkpoint's files say.
    truncate: the number of the prompt's last tokens to keep.
    suffix: the text after the answer, for code models that fill in the middle.
    add_special_tokens: None: to a text, but not to messages, whose template contains them.
    src_lang, tgt_lang: codes of the text's and the answer's language. forced_bos_token_id: what the
    answer of an encoder-decoder begins with.
    kept_special_tokens: the texts of those that are part of the answer in any case.
    reasoning: after which a grammar begins.
    priority: of waiting requests, lower goes first. prediction: what much of the answer is expected
    to be, which only speeds it up.
    """

    sampling: SamplingOptions
    max_tokens: int | None
    n: int
    best_of: int
    stop: tuple[str, ...]
    include_stop: bool
    skip_special_tokens: bool
    add_special_tokens: bool | None
    truncate: int | None
    suffix: str | None
    adapter_id: str | None
    grammar: tuple[str, Any] | None
    src_lang: str | None = None
    tgt_lang: str | None = None
    forced_bos_token_id: int | None = None
    chat: ChatOptions | None = None
    kept_special_tokens: tuple[str, ...] = ()
    reasoning: ReasoningMarks | None = None
    has_usual_length: bool = False
    priority: int = 0
    prediction: str | None = None


def read_options(
    tensor: str | None,
    parameters: Mapping[str, Any],
    stop: list[str] | None,
    settings: Settings,
    *,
    default_max_tokens: int | None,
    eos_token_ids: frozenset[int],
    limits: EngineLimits,
    is_conversation: bool = False,
) -> GenerateOptions:
    """Options from the ``sampling_parameters`` tensor, request parameters and the ``stop`` tensor.

    Raises:
        ValidationError: names the field, its value and what is allowed.
    """
    values = {**canonical(parameters), **canonical(json_object(tensor))}
    unlimited = "max_tokens" in values and values["max_tokens"] is None
    given = {k: v for k, v in values.items() if v is not None}
    r = OptionReader(with_search(given, limits, is_conversation=is_conversation))
    has_usual_length = limits.max_length is not None and "max_tokens" not in values
    unlimited = unlimited or has_usual_length
    max_tokens = r.integer("max_tokens", None if unlimited else default_max_tokens, 1)
    num_beams = r.integer("num_beams", 1)
    most = num_beams if num_beams > 1 else settings.max_best_of
    n = r.integer("n", 1, 1, most)
    best_of = n if num_beams > 1 else r.integer("best_of", n, n, most)
    sampling = _sampling(r, settings, max_tokens, eos_token_ids, limits)
    if best_of > 1 and num_beams == 1:
        if not sampling.do_sample:
            raise ValidationError(
                f"best_of is {best_of} without sampling: all answers would be the same"
            )
        if r.has("seed"):
            raise ValidationError(f"seed must not be set when best_of or n is {best_of}")
    return GenerateOptions(
        sampling=sampling,
        max_tokens=max_tokens,
        n=n,
        best_of=best_of,
        stop=_stop_strings(r, stop, settings.max_stop_sequences),
        include_stop=r.flag("include_stop_str_in_output", False),
        skip_special_tokens=r.flag("skip_special_tokens", True),
        add_special_tokens=r.flag("add_special_tokens", None),
        truncate=r.integer("truncate", None, 1),
        suffix=r.text("suffix") or None,
        adapter_id=r.text("adapter_id"),
        grammar=_grammar(r, settings),
        src_lang=r.text("src_lang"),
        tgt_lang=r.text("tgt_lang"),
        forced_bos_token_id=r.integer("forced_bos_token_id", None, 0, limits.vocab_size - 1),
        chat=_chat(r),
        kept_special_tokens=_texts(r, "kept_special_tokens"),
        reasoning=ReasoningMarks.read(r.structure("reasoning")),
        has_usual_length=has_usual_length,
        priority=r.integer("priority", 0, -MAX_PRIORITY, MAX_PRIORITY),
        prediction=r.text("prediction") or None,
    )


def fitted(
    options: GenerateOptions,
    name: str,
    num_prompt_tokens: int,
    limits: EngineLimits,
    flags: Mapping[str, bool | None],
    num_given: int = 0,
) -> GenerateOptions:
    """The options, with the number of new tokens and the log-probabilities that are needed.

    Args:
        num_given: what the decoder of an encoder-decoder is given of the answer.

    Raises:
        ValidationError: the prompt and ``max_tokens`` exceed ``max_total_tokens``, or the latter
            ``max_answer_tokens``.
    """
    room = limits.max_total_tokens - num_prompt_tokens
    asked = options.max_tokens
    if asked is not None and asked > room:
        raise ValidationError(
            f"{name} has {num_prompt_tokens} tokens and max_tokens is {asked}: together they "
            f"exceed max_total_tokens, {limits.max_total_tokens}"
        )
    needs_logprobs = (
        flags["return_logprobs"]
        or flags["return_cumulative_logprob"]
        or options.best_of > options.n
    )
    if asked is not None and asked > limits.max_answer_tokens:
        raise ValidationError(
            f"max_tokens is {asked}; the model's answers have at most {limits.max_answer_tokens} "
            "tokens"
        )
    most = limits.max_answer_tokens
    if options.has_usual_length and limits.max_length is not None:
        most = min(most, max(limits.max_length - num_given, 1))
    sampling = dataclasses.replace(
        options.sampling,
        max_new_tokens=min(room, most) if asked is None else asked,
        logprobs=options.sampling.logprobs or bool(needs_logprobs),
        prompt_logprobs=options.sampling.prompt_logprobs or bool(flags["return_prompt_logprobs"]),
    )
    return dataclasses.replace(options, sampling=sampling)


def _sampling(
    r: OptionReader,
    settings: Settings,
    max_tokens: int | None,
    eos_token_ids: frozenset[int],
    limits: EngineLimits,
) -> SamplingOptions:
    temperature = r.number("temperature", 1.0, 0.0)
    # All tokens: -1 in vLLM, 0 elsewhere.
    top_k = max(r.integer("top_k", 0, -1), 0)
    most = max(settings.max_top_n_tokens, _OPENAI_TOP_LOGPROBS)
    num_top = r.integer("top_logprobs", 0, 0, most)
    # vLLM and OpenAI's completions have numbers, OpenAI's chats and TGI booleans.
    alternatives = num_top or None
    if r.has("logprobs"):
        count = r.count_or_flag("logprobs", num_top, most)
        alternatives = None if count is None else max(count, num_top)
    prompt_alternatives = r.count_or_flag("prompt_logprobs", num_top, most)
    min_tokens = r.integer("min_tokens", 0, 0)
    if max_tokens is not None and min_tokens > max_tokens:
        raise ValidationError(f"min_tokens is {min_tokens}; the most allowed is {max_tokens}")
    unwanted = read_unwanted(r, limits, eos_token_ids)
    forced = None if r.flag("ignore_eos", False) else limits.forced_eos_token_id
    return SamplingOptions(
        max_new_tokens=max_tokens or 0,
        min_new_tokens=min_tokens,
        do_sample=does_sample(r),
        temperature=temperature or 1.0,
        top_k=top_k,
        top_p=r.above_zero("top_p", 1.0, 1.0),
        min_p=r.number("min_p", 0.0, 0.0, 1.0),
        typical_p=r.above_zero("typical_p", 1.0, 1.0),
        repetition_penalty=r.above_zero("repetition_penalty", 1.0),
        frequency_penalty=r.number("frequency_penalty", 0.0, -2.0, 2.0),
        presence_penalty=r.number("presence_penalty", 0.0, -2.0, 2.0),
        no_repeat_ngram_size=r.integer("no_repeat_ngram_size", 0, 0),
        num_beams=r.integer("num_beams", 1),
        length_penalty=length_penalty(r),
        early_stopping=early_stopping(r),
        forced_eos_token_id=r.integer("forced_eos_token_id", forced, 0, limits.vocab_size - 1),
        bad_words=unwanted.words,
        begin_suppress_tokens=unwanted.first,
        logit_bias=read_bias(r.structure("logit_bias"), unwanted.never, limits.vocab_size),
        watermark=r.flag("watermark", False),
        seed=r.integer("seed", 0, 0, 2**64 - 1) if r.has("seed") else secrets.randbits(63),
        eos_token_ids=eos_token_ids,
        stop_token_ids=frozenset(
            read_ids("stop_token_ids", r.structure("stop_token_ids"), limits.vocab_size)
        ),
        ignore_eos=r.flag("ignore_eos", False),
        logprobs=alternatives is not None,
        top_logprobs=alternatives or 0,
        prompt_logprobs=prompt_alternatives is not None,
        # A flag may still request them: then as many as for the answer's tokens.
        prompt_top_logprobs=alternatives or 0
        if prompt_alternatives is None
        else prompt_alternatives,
    )


def _stop_strings(r: OptionReader, tensor: list[str] | None, most: int) -> tuple[str, ...]:
    value = r.get("stop")
    if isinstance(value, str):
        value = _list_in_text(value)
    listed = [] if value is None else value
    if not isinstance(listed, list) or not all(isinstance(s, str) for s in listed):
        raise ValidationError(f"stop is {value!r}; expected text or a list of texts")
    stops = [*listed, *(tensor or ())]
    if len(stops) > most:
        raise ValidationError(f"stop has {len(stops)} texts; the most allowed is {most}")
    if "" in stops:
        raise ValidationError("stop holds an empty text")
    return tuple(stops)


def _texts(r: OptionReader, name: str) -> tuple[str, ...]:
    value = r.structure(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValidationError(f"{name} is {value!r}; expected a list of texts")
    return tuple(value)


def _list_in_text(value: str) -> list[Any]:
    """A list in JSON, since parameters cannot carry lists; any other text is one element."""
    if value.startswith("["):
        with contextlib.suppress(ValueError):
            return list(json.loads(value))
    return [value]


def _grammar(r: OptionReader, settings: Settings) -> tuple[str, Any] | None:
    """The constraint on the answer, if there is one, as (option, value)."""
    found = [(name, r.get(name)) for name in CONSTRAINTS if r.has(name)]
    if len(found) > 1:
        raise ValidationError(f"only one of {', '.join(name for name, _ in found)} can be set")
    if found and settings.disable_grammar_support:
        raise ValidationError(f"{found[0][0]} is set, but disable_grammar_support is on")
    return found[0] if found else None


def _chat(r: OptionReader) -> ChatOptions | None:
    """The options of the chat template; None: none is set. All of them may be text."""
    if not any(r.has(name) for name in CHAT_NAMES):
        return None
    values = {name: r.get(name) for name in CHAT_NAMES}
    values |= {name: r.flag(name, None) for name in CHAT_NAMES[:2]}
    values["chat_template_kwargs"] = r.structure("chat_template_kwargs")
    return ChatOptions.read(values)
