"""What a checkpoint's files ask of every answer's tokens, as transformers' ``generate`` does it."""

from __future__ import annotations

from typing import Any, NamedTuple

from atoll.errors import ConfigError
from atoll.weights.json_fields import Fields


class AnswerRules(NamedTuple):
    """Keys of generation_config.json.

    banned_tokens: ids that never come. bad_words: two or more ids, of which the last never follows
    the others. begin_suppress_tokens: what no answer begins with. forced_eos_token_id: what answers
    of full length end with. max_length: of an encoder-decoder, the tokens of an answer with what
    its decoder is given, unless a request says how many.
    """

    banned_tokens: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_eos_token_id: int | None = None
    max_length: int | None = None

    def within(self, vocab_size: int) -> AnswerRules:
        """The rules without ids that the model does not have."""
        return self._replace(
            banned_tokens=tuple(i for i in self.banned_tokens if i < vocab_size),
            bad_words=tuple(word for word in self.bad_words if max(word) < vocab_size),
            begin_suppress_tokens=tuple(i for i in self.begin_suppress_tokens if i < vocab_size),
        )


def read(fields: Fields, vocab_size: int, ends: Any, *, is_encoder_decoder: bool) -> AnswerRules:
    """The rules.

    Args:
        ends: eos_token_id, which is no bad word.

    Raises:
        ConfigError: a key has a value of another kind; names it.
    """
    words = fields.raw.get("bad_words_ids")
    if not isinstance(words, list | None):
        raise ConfigError(f"{fields.source}: bad_words_ids is {words!r}; expected lists of ids")
    found = [_ids(fields, "bad_words_ids", word) for word in words or []]
    if () in found:
        raise ConfigError(f"{fields.source}: bad_words_ids is {words!r}; a word has no tokens")
    end_ids = ends if isinstance(ends, list) else [ends]
    single = {word[0] for word in found if len(word) == 1} - {i for i in end_ids if type(i) is int}
    forced, max_length = None, None
    if fields.has("forced_eos_token_id"):
        forced = fields.token("forced_eos_token_id", vocab_size=vocab_size)
    if is_encoder_decoder and fields.has("max_length"):
        max_length = fields.size("max_length")
    banned = {*single, *_ids(fields, "suppress_tokens", fields.raw.get("suppress_tokens"))}
    first = _ids(fields, "begin_suppress_tokens", fields.raw.get("begin_suppress_tokens"))
    return AnswerRules(
        tuple(sorted(banned)), tuple(word for word in found if len(word) > 1), first, forced,
        max_length,
    )  # fmt: skip


def _ids(fields: Fields, name: str, value: Any) -> tuple[int, ...]:
    if value is None and name != "bad_words_ids":
        return ()
    if not isinstance(value, list) or not all(type(i) is int and i >= 0 for i in value):
        raise ConfigError(f"{fields.source}: {name} holds {value!r}; expected token ids")
    return tuple(value)
