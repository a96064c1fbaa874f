"""Options about single tokens: by how much their scores change, and which an answer has not."""

from __future__ import annotations

from typing import Any, NamedTuple

from atoll.engine.limits import EngineLimits
from atoll.errors import ValidationError
from atoll.serving.requests.option_reader import OptionReader
from atoll.serving.triton.tensors import as_float, as_int

# Words are looked for in every step.
_MAX_WORDS = 1000


class UnwantedTokens(NamedTuple):
    """never: ids that do not come. words: two or more ids, of which the last does not follow the
    others. first: ids that the answer does not begin with."""

    never: tuple[int, ...]
    words: tuple[tuple[int, ...], ...]
    first: tuple[int, ...]


def read_unwanted(
    r: OptionReader, limits: EngineLimits, eos_token_ids: frozenset[int]
) -> UnwantedTokens:
    """What a request and the checkpoint's files keep out of an answer, as transformers does.

    Raises:
        ValidationError: names the option, its value and what is allowed.
    """
    words = _words(r.structure("bad_words_ids"), limits.vocab_size)
    # The end of an answer is no bad word, as in transformers.
    single = {word[0] for word in words if len(word) == 1} - eos_token_ids
    suppressed = read_ids("suppress_tokens", r.structure("suppress_tokens"), limits.vocab_size)
    never = dict.fromkeys((*limits.banned_tokens, *sorted(single), *suppressed))
    begin = "begin_suppress_tokens"
    return UnwantedTokens(
        tuple(never),
        (*limits.bad_words, *(word for word in words if len(word) > 1)),
        (*limits.begin_suppress_tokens, *read_ids(begin, r.structure(begin), limits.vocab_size)),
    )


def read_bias(
    value: Any, banned: tuple[int, ...], vocab_size: int
) -> tuple[tuple[int, float], ...]:
    """OpenAI's: token ids with numbers between -100 and 100. Banned tokens get minus infinity."""
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise ValidationError(f"logit_bias is {value!r}; expected an object of id: number")
    found: dict[int, float] = {}
    for name, amount in value.items():
        token = as_int("logit_bias token", name, 0, vocab_size - 1)
        if token in found:
            raise ValidationError(f"logit_bias has the token {token} more than once")
        found[token] = as_float(f"logit_bias[{name}]", amount, -100.0, 100.0)
    return (*found.items(), *((token, float("-inf")) for token in banned))


def read_ids(name: str, value: Any, vocab_size: int) -> tuple[int, ...]:
    """A list of token ids; empty where there is none. Raises ValidationError: it is no such."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValidationError(f"{name} is {value!r:.200}; expected a list of ids")
    return tuple(as_int(name, token, 0, vocab_size - 1) for token in value)


def _words(value: Any, vocab_size: int) -> list[tuple[int, ...]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(word, list) and word for word in value):
        raise ValidationError(
            f"bad_words_ids is {value!r:.200}; expected a list of lists of token ids, none empty"
        )
    if len(value) > _MAX_WORDS:
        raise ValidationError(f"bad_words_ids has {len(value)} words; at most {_MAX_WORDS} are")
    return [read_ids(f"bad_words_ids[{i}]", word, vocab_size) for i, word in enumerate(value)]
