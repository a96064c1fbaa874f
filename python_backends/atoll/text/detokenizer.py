"""Text from tokens as they come: no broken characters, no lost spaces, nothing held for long.

A token alone has no text: its bytes may be half a character, and decoders drop the space before
the first word. So a window of tokens is decoded together, and what it adds to the window before is
new. A trailing U+FFFD may be a character that the next token completes; it waits for at most the
three tokens that a character can still take, and of more than those only the last one waits.

    ids   ... [prefix ............ read ........ end]
              already given out -> | new text
"""

from __future__ import annotations

from collections.abc import Sequence

from atoll.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
_PRIME = 5  # tokens decoded in front at least, so that the next word keeps its space
_LONGEST_CHARACTER = 4  # bytes, hence tokens


class Detokenizer:
    """One generated text. ``push`` each token, then ``finish``."""

    def __init__(
        self, tokenizer: Tokenizer, prompt_ids: Sequence[int], skip_special_tokens: bool = True
    ) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._ids, self._given = self._tail(prompt_ids)
        self._num_read = len(self._ids)
        # The window's beginning that ends with a character, and its tokens.
        self._whole = self._given, self._num_read

    def push(self, token_id: int) -> str:
        """The text that the token makes certain."""
        self._ids.append(token_id)
        text = self._text()
        if not text.endswith(_REPLACEMENT):
            new = text[len(self._given) :]
            self._forget(text)
            return new
        if len(self._ids) - self._num_read >= _LONGEST_CHARACTER:
            # No character is that long: these bytes are not text, but the last may begin one.
            new = self._give(text[:-1])
            self._forget(text, num_held=1)
            return new
        return self._give(text.rstrip(_REPLACEMENT))

    def finish(self) -> str:
        """What was held back: bytes that never became a character show as U+FFFD."""
        return self._give(self._text())

    def _give(self, certain: str) -> str:
        new = certain[len(self._given) :]
        self._given = max(self._given, certain, key=len)
        return new

    def _forget(self, text: str, num_held: int = 0) -> None:
        """Moves the window: the latest tokens stay, as context for the next.

        num_held: U+FFFD at the end of ``text`` that are not given out; what they stand for is not
        read yet.
        """
        is_moved = len(self._ids) > 2 * _PRIME
        if is_moved:
            self._ids, text = self._tail(self._ids)
        self._num_read = len(self._ids) if num_held == 0 else 0
        self._given = text[: len(text) - num_held]
        if num_held == 0:
            self._whole = text, len(self._ids)
        elif is_moved:
            self._whole = "", 0

    def _tail(self, ids: Sequence[int]) -> tuple[list[int], str]:
        """The last tokens and their text, if possible from the beginning of a character on."""
        for count in range(_PRIME, _PRIME + _LONGEST_CHARACTER):
            text = self._decode(ids[-count:])
            if not text.startswith(_REPLACEMENT):
                return list(ids[-count:]), text
        return list(ids[-_PRIME:]), self._decode(ids[-_PRIME:])

    def _text(self) -> str:
        """The window's text.

        Where a row of bytes ends or begins within a character, decoders with byte fallback (Llama,
        Mistral) make U+FFFD of each byte of the row: what was text before is kept.
        """
        text, (whole, count) = self._decode(self._ids), self._whole
        if text.startswith(whole) or _REPLACEMENT not in text:
            return text
        return whole + self._decode(self._ids[count:])

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, self._skip)


class StopStrings:
    """Finds stop strings in a growing text, and holds back only what may become one.

    include: whether a stop string is part of the text that it ends.
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        self._stops, self._include = tuple(stops), include
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """The text that is certain not to belong to a stop string; sets ``found`` at one."""
        if not self._stops or self.found is not None:
            return "" if self.found is not None else text
        text = self._held + text
        places = [(text.find(stop), stop) for stop in self._stops]
        hits = [(at, -len(stop), stop) for at, stop in places if at >= 0]
        if hits:
            at, _, self.found = min(hits)
            self._held = ""
            return text[: at + len(self.found)] if self._include else text[:at]
        held = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """What was held back and turned out to be text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
