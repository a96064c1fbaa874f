"""Text from tokens as they arrive: no broken characters, no lost spaces, little delay.

A single token has no exact text: its bytes may be half a character, and decoders drop the space
before the first word. The text of a token is therefore what it adds to the text before it, prompt
included; a character whose bytes are spread over tokens belongs to the one that completes it.

Bytes that never become a character are U+FFFD, as in transformers: one for a piece of a character
in byte-level vocabularies, one for each byte in those with byte fallback. With byte fallback,
transformers turns a whole run of byte tokens into U+FFFD if one of its bytes is wrong; here the
characters of the run are kept, since they are returned before the wrong byte arrives.
"""

from __future__ import annotations

import os.path
from collections.abc import Container, Iterator, Sequence
from itertools import islice, takewhile

from atoll.text.tokenizer import Tokenizer
from atoll.text.vocabulary import Vocabulary

_MARK = "\ufffd"
# Minimum number of preceding tokens to decode: a token's text may depend on those before it.
_CONTEXT = 5
# Bytes at the end of a prompt that may begin a character: more than any character has.
_LOOK_BACK = 8
_INCOMPLETE = "unexpected end of data"  # Python's error for bytes that may be continued


class Detokenizer:
    """One generated text. ``push`` each token, then ``finish``.

    kept: special tokens that are not skipped.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int] = (),
        skip_special_tokens: bool = True,
        kept: Container[int] = (),
    ) -> None:
        self._vocabulary, self._skip = tokenizer.vocabulary, skip_special_tokens
        self._kept = kept
        self._bytes = _Bytes(self._vocabulary.is_byte_level)
        self._words = _Words(self._vocabulary)
        self._read_prompt(prompt_ids)

    @property
    def has_pending(self) -> bool:
        """Whether there are bytes that the next token may complete to a character."""
        return bool(self._bytes.pending)

    @property
    def is_at_start(self) -> bool:
        """Whether there is no text before the next token, which may then lose its space."""
        is_blank = self._words.is_empty and not self.has_pending
        return is_blank and not self._vocabulary.is_byte_level

    def push(self, token_id: int) -> str:
        """The text that is final after this token."""
        if not self._is_shown(token_id):
            return ""
        if self._vocabulary.is_byte_level:
            return self._bytes.push(self._vocabulary.token_bytes(token_id))
        part = self._vocabulary.character_part(token_id)
        if part is None:
            return self.finish() + self._words.push(token_id)
        return self._began(self._bytes.push(part))

    def finish(self) -> str:
        """The text held back: bytes that never became a character are shown as U+FFFD."""
        return self._began(self._bytes.finish())

    def _began(self, text: str) -> str:
        if text and not self._vocabulary.is_byte_level:
            self._words.begin()
        return text

    def _is_shown(self, token_id: int) -> bool:
        is_special = self._skip and self._vocabulary.is_special(token_id)
        is_left_out = is_special and token_id not in self._kept
        return token_id in self._vocabulary and not is_left_out

    def _read_prompt(self, ids: Sequence[int]) -> None:
        vocabulary = self._vocabulary
        if vocabulary.is_byte_level:
            last = islice(self._shown_from_end(ids), _LOOK_BACK)
            self._bytes.read_prompt([vocabulary.token_bytes(i) for i in last])
            return
        parts = map(vocabulary.character_part, self._shown_from_end(ids))
        last_parts = [part for part in islice(takewhile(_is_part, parts), _LOOK_BACK) if part]
        self._bytes.read_prompt(last_parts)
        if last_parts:
            self._words.begin()
        shown = self._shown_from_end(ids)
        words = (i for i in shown if not _is_part(vocabulary.character_part(i)))
        for token_id in reversed(list(islice(words, _CONTEXT))):
            self._words.push(token_id)

    def _shown_from_end(self, ids: Sequence[int]) -> Iterator[int]:
        return (token_id for token_id in reversed(ids) if self._is_shown(token_id))


def _is_part(part: bytes | None) -> bool:
    return part is not None


class _Bytes:
    """Incremental UTF-8 decoder.

    has_one_mark: a piece of a character is one U+FFFD, not one for each byte. pending: bytes that
    may still become a character; those that belong to the prompt are never shown as U+FFFD.
    """

    def __init__(self, has_one_mark: bool) -> None:
        self._has_one_mark = has_one_mark
        self.pending = b""
        self._num_from_prompt = 0

    def read_prompt(self, parts: Sequence[bytes]) -> None:
        """Reads a prompt's last bytes, from its end; an incomplete character may be continued."""
        self.push(b"".join(reversed(parts)))
        self._num_from_prompt = len(self.pending)

    def push(self, data: bytes, is_end: bool = False) -> str:
        """The characters that are complete now."""
        self.pending += data
        text = ""
        while self.pending:
            try:
                text += self._taken(self.pending.decode(), len(self.pending))
            except UnicodeDecodeError as error:
                text += self._taken(self.pending[: error.start].decode(), error.start)
                if error.reason == _INCOMPLETE and not is_end:
                    break
                text += self._broken(error.end - error.start)
        return text

    def finish(self) -> str:
        """The marks for bytes that never became a character."""
        return self.push(b"", is_end=True)

    def _broken(self, size: int) -> str:
        """The marks for bytes that are not a character."""
        count = max(size - self._num_from_prompt, 0)
        if self._has_one_mark:
            count = int(self._num_from_prompt == 0)
        return self._taken(_MARK * count, size)

    def _taken(self, text: str, size: int) -> str:
        self.pending = self.pending[size:]
        self._num_from_prompt = max(self._num_from_prompt - size, 0)
        return text


class _Words:
    """Tokens of text, decoded together with those before them.

    [context ..........................] token
     decoded before: already returned    new text
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._ids: list[int] = []
        self._text = ""

    @property
    def is_empty(self) -> bool:
        """True until a token of text has arrived; other tokens do not count."""
        return not self._ids

    def begin(self) -> None:
        """Marks the text as begun, though not by a token of text."""
        if not self._ids:
            self._set([self._vocabulary.anchor])

    def push(self, token_id: int) -> str:
        """The text that the token adds."""
        before = self._text
        self._set([*self._ids, token_id])
        new = self._text[len(os.path.commonprefix([before, self._text])) :]
        if len(self._ids) > 2 * _CONTEXT:
            self._shorten()
        return new

    def _shorten(self) -> None:
        """Keeps the latest tokens; some must have text, or the next would count as the first."""
        ids = self._ids
        for count in range(_CONTEXT, len(ids) + 1):
            self._set(ids[-count:])
            if self._text:
                break

    def _set(self, ids: list[int]) -> None:
        self._ids, self._text = ids, self._vocabulary.decode(ids)
