"""Text from tokens as they come: no broken characters, no lost spaces, nothing held for long.

A token alone has no exact text: its bytes may be half a character, and decoders drop the space
before the first word. So the text of a token is what it adds to the text before it, prompt
included; a character whose bytes are spread over tokens belongs to the one that completes it.

Bytes that never become a character are U+FFFD, as transformers has them: one for a piece of a
character in byte-level vocabularies, one for each byte in those with byte fallback. There,
transformers makes U+FFFD of a whole row of byte tokens if one of its bytes is wrong; here the
characters of the row stay, since they are given out before the wrong byte comes.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile

from atoll.text.tokenizer import Tokenizer
from atoll.text.vocabulary import Vocabulary

_MARK = "\ufffd"
# Tokens decoded in front at least: what a decoder makes of a token may depend on those before.
_CONTEXT = 5
# Bytes of a prompt that are looked at for a character that it begins: more than any has.
_LOOK_BACK = 8
_INCOMPLETE = "unexpected end of data"  # Python's word for bytes that may go on


class Detokenizer:
    """One generated text. ``push`` each token, then ``finish``."""

    def __init__(
        self, tokenizer: Tokenizer, prompt_ids: Sequence[int] = (), skip_special_tokens: bool = True
    ) -> None:
        self._vocabulary, self._skip = tokenizer.vocabulary, skip_special_tokens
        self._bytes = _Bytes(self._vocabulary.is_byte_level)
        self._words = _Words(self._vocabulary)
        self._read_prompt(prompt_ids)

    @property
    def has_pending(self) -> bool:
        """Whether there are bytes of which the next token may make a character."""
        return bool(self._bytes.pending)

    @property
    def is_at_start(self) -> bool:
        """Whether no text is before the next token, which then may lose its space."""
        is_blank = self._words.is_empty and not self.has_pending
        return is_blank and not self._vocabulary.is_byte_level

    def push(self, token_id: int) -> str:
        """The text that the token makes certain."""
        if not self._is_shown(token_id):
            return ""
        if self._vocabulary.is_byte_level:
            return self._bytes.push(self._vocabulary.token_bytes(token_id))
        part = self._vocabulary.character_part(token_id)
        if part is None:
            return self.finish() + self._words.push(token_id)
        return self._began(self._bytes.push(part))

    def finish(self) -> str:
        """What was held back: bytes that never became a character show as U+FFFD."""
        return self._began(self._bytes.finish())

    def _began(self, text: str) -> str:
        if text and not self._vocabulary.is_byte_level:
            self._words.begin()
        return text

    def _is_shown(self, token_id: int) -> bool:
        is_left_out = self._skip and self._vocabulary.is_special(token_id)
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
    """UTF-8 as it comes.

    has_one_mark: a piece of a character is one U+FFFD, not one for each byte. pending: what may
    still become a character; its beginning may be a prompt's, which no U+FFFD is shown for.
    """

    def __init__(self, has_one_mark: bool) -> None:
        self._has_one_mark = has_one_mark
        self.pending = b""
        self._num_from_prompt = 0

    def read_prompt(self, parts: Sequence[bytes]) -> None:
        """A prompt's last bytes, from its end; an unfinished character there may go on."""
        self.push(b"".join(reversed(parts)))
        self._num_from_prompt = len(self.pending)

    def push(self, data: bytes, is_end: bool = False) -> str:
        """The characters that are whole now."""
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
        """What never became a character."""
        return self.push(b"", is_end=True)

    def _broken(self, size: int) -> str:
        """The marks of bytes that are no character."""
        count = max(size - self._num_from_prompt, 0)
        if self._has_one_mark:
            count = int(self._num_from_prompt == 0)
        return self._taken(_MARK * count, size)

    def _taken(self, text: str, size: int) -> str:
        self.pending = self.pending[size:]
        self._num_from_prompt = max(self._num_from_prompt - size, 0)
        return text


class _Words:
    """Tokens of text, decoded behind those before them.

    [context ......................] token
     decoded before: already given   new text
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._ids: list[int] = []
        self._text = ""

    @property
    def is_empty(self) -> bool:
        """True until there is a text, which other tokens are not the beginning of."""
        return not self._ids

    def begin(self) -> None:
        """The text has begun, though not with a token of text."""
        if not self._ids:
            self._set([self._vocabulary.anchor])

    def push(self, token_id: int) -> str:
        """What the token adds."""
        before = self._text
        self._set([*self._ids, token_id])
        new = self._text[len(os.path.commonprefix([before, self._text])) :]
        if len(self._ids) > 2 * _CONTEXT:
            self._shorten()
        return new

    def _shorten(self) -> None:
        """Keeps the latest tokens; some of them must have a text, or the next would be a first."""
        ids = self._ids
        for count in range(_CONTEXT, len(ids) + 1):
            self._set(ids[-count:])
            if self._text:
                break

    def _set(self, ids: list[int]) -> None:
        self._ids, self._text = ids, self._vocabulary.decode(ids)
