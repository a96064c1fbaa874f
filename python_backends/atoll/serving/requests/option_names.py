"""Names of generation options in vLLM, OpenAI and TGI, and those that are refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from atoll import json_text
from atoll.errors import ValidationError
from atoll.serving.requests.priority import PRIORITY, read_priority

# Other names of an option -> its own.
ALIASES: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "decoder_input_details": "prompt_logprobs",
    "top_n_tokens": "top_logprobs",
    "stop_sequences": "stop",
    "lora_name": "adapter_id",
    "truncate_prompt_tokens": "truncate",
    "num_return_sequences": "n",
    PRIORITY: "priority",
}
# Options of the chat template.
CHAT_NAMES = (
    "add_generation_prompt", "continue_final_message", "chat_template_kwargs", "tool_prompt",
)  # fmt: skip
NAMES: frozenset[str] = frozenset(
    {
        "max_tokens", "min_tokens", "do_sample", "temperature", "top_k", "top_p", "min_p",
        "typical_p", "repetition_penalty", "frequency_penalty", "presence_penalty",
        "no_repeat_ngram_size", "logit_bias", "watermark", "seed", "n", "best_of", "stop",
        "stop_token_ids", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens",
        "kept_special_tokens", "reasoning",
        "src_lang", "tgt_lang", "forced_bos_token_id", "forced_eos_token_id",
        "bad_words_ids", "suppress_tokens", "begin_suppress_tokens",
        "num_beams", "use_beam_search", "length_penalty", "early_stopping",
        "add_special_tokens", "logprobs", "top_logprobs", "prompt_logprobs", "truncate", "suffix",
        "adapter_id", "priority", "prediction", "grammar", "response_format", "guided_json",
        "guided_regex", "guided_choice", "guided_grammar", *CHAT_NAMES,
    }
)  # fmt: skip
# vLLM options that are not supported here -> their neutral values, which are accepted.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "allowed_token_ids": (), "bad_words": ([],), "detokenize": (True,), "logits_processors": ([],),
    "output_kind": (), "spaces_between_special_tokens": (True,),
}  # fmt: skip


def canonical(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their canonical names.

    Raises:
        ValidationError: an unknown name, or one option under two names with different values.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in NEUTRAL:
            _check_neutral(name, value)
            continue
        if name == PRIORITY and value is not None:
            value = read_priority({name: value})  # which names it as the caller does
        own = ALIASES.get(name, name)
        if own not in NAMES:
            known = ", ".join(sorted(NAMES | ALIASES.keys()))
            raise ValidationError(f"unknown option {name!r}; known: {known}")
        if found.get(own) is not None and value is not None and found[own] != value:
            raise ValidationError(f"{name} is {value!r}, but {own} is also given as {found[own]!r}")
        if own not in found or value is not None:
            found[own] = value
    return found


def _check_neutral(name: str, value: Any) -> None:
    """Raises ValidationError: an unsupported option has a value that is not neutral."""
    plain = value
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            plain = json.loads(value.lower())
    if plain is not None and plain not in NEUTRAL[name]:
        allowed = ", ".join(map(json.dumps, NEUTRAL[name])) or "nothing"
        raise ValidationError(f"{name} is {value!r}, which is not supported; allowed: {allowed}")


def json_object(text: str | None) -> dict[str, Any]:
    """The ``sampling_parameters`` tensor; an empty object if it is missing or empty."""
    found = parsed("sampling_parameters", text) if text else {}
    if not isinstance(found, dict):
        raise ValidationError(f"sampling_parameters is {text!r}; expected a JSON object")
    return found


def json_list(name: str, text: str) -> list[Any]:
    """A list in JSON, such as messages or tools, with at least one element."""
    found = parsed(name, text)
    if not isinstance(found, list) or not found:
        raise ValidationError(f"{name}: expected a JSON list with at least one object")
    return found


def parsed(name: str, text: str) -> Any:
    """JSON in an option's text."""
    try:
        return json_text.loads(text)
    except ValueError as error:
        raise ValidationError(f"{name} is not valid JSON: {error}") from None
