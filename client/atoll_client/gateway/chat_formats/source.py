"""The text of an answer as parsers read it: from beginning to end, waiting for what is missing.

A parser is a generator over a ``Source``. Wherever more text could change its decision, it yields
None and goes on once there is more. Its events therefore do not depend on how the text is split,
except that the pieces of a text or of arguments are as they arrive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container

from atoll_client.gateway.chat_formats.call_head import Head, NoCall, Unclear, read_head
from atoll_client.gateway.chat_formats.events import Argued, Event, Reading

_BLANK = re.compile(r"\s*")
# In a JSON object: a string, a bracket, or the beginning of a marker, which ends it.
_BRACKETS = re.compile(r'["{}\[\]<]')
# A beginning that is unclear is parsed again when it is longer by this part of it.
_GROWTH = 64
_IN_TEXT = re.compile(r'\\.|"', re.DOTALL)


class Source:
    """Text that is read once, except after ``keep``: then it can be read again.

    is_whole: whether there is no more text than there is. num_behind: characters behind the last
    ``mark``, which a reader resets.
    """

    def __init__(self) -> None:
        self._text, self._at = "", 0
        self.num_behind: int | None = None
        self._kept: int | None = None
        self.is_whole = False

    def add(self, text: str) -> None:
        """More text at the end; what was read before is dropped."""
        start = self._at if self._kept is None else self._kept
        self._text = self._text[start:] + text
        self._at -= start
        self._kept = None if self._kept is None else 0

    def keep(self) -> None:
        """Text from here on is kept for ``rewind``."""
        self._kept = self._at

    def rewind(self) -> None:
        """Goes back to where text was kept, which it is no longer."""
        assert self._kept is not None, "nothing is kept"
        self._at, self._kept = self._kept, None

    def commit(self) -> None:
        """Text is no longer kept."""
        self._kept = None

    def mark(self) -> None:
        """The reasoning ends here."""
        self.num_behind = len(self._text) - self._at

    @property
    def rest(self) -> str:
        """The text that is not read yet."""
        return self._text[self._at :]

    def take(self, count: int) -> str:
        """Passes so many characters, which are there already."""
        text = self._text[self._at : self._at + count]
        self._at += count
        return text

    def more(self) -> Reading[bool]:
        """Waits for more text; False: there is none."""
        if self.is_whole:
            return False
        yield None
        return True

    def peek(self) -> Reading[str]:
        """The next character; "" at the end."""
        while self._at == len(self._text):
            if not (yield from self.more()):
                return ""
        return self._text[self._at]

    def blank(self) -> Reading[None]:
        """Passes white space."""
        while True:
            found = _BLANK.match(self._text, self._at)
            assert found is not None, "the pattern matches the empty string"
            self._at = found.end()
            if self._at < len(self._text) or not (yield from self.more()):
                return

    def accept(self, *words: str) -> Reading[str]:
        """The word that the text goes on with, which is passed; "": none of them.

        No word may be the beginning of another.
        """
        while True:
            for word in words:
                if self._text.startswith(word, self._at):
                    self._at += len(word)
                    return word
            rest = self._text[self._at : self._at + max(map(len, words))]
            if not any(word.startswith(rest) for word in words):
                return ""
            if not (yield from self.more()):
                return ""

    def close(self, word: str) -> Reading[bool]:
        """Passes a word, or the part of it with which the text ends; False: it is not there."""
        if (yield from self.accept(word)):
            return True
        is_part = self.is_whole and word.startswith(self.rest)
        if is_part:
            self._at = len(self._text)
        return is_part

    def before(self, *words: str) -> Reading[tuple[str, str]]:
        """The text before the first of the words, which is passed, and this word, which is not.

        If the text ends before, it is the rest and "".
        """
        longest, seen = max(map(len, words)), 0
        while True:
            start = self._at + seen
            found = [(at, w) for w in words if (at := self._text.find(w, start)) >= 0]
            if found:
                at, word = min(found)
                text, self._at = self._text[self._at : at], at
                return text, word
            seen = max(len(self._text) - self._at - longest + 1, 0)
            if not (yield from self.more()):
                text, self._at = self.rest, len(self._text)
                return text, ""

    def until(self, *words: str) -> Reading[tuple[str, str]]:
        """As ``before``, and passes the word."""
        text, word = yield from self.before(*words)
        self._at += len(word)
        return text, word

    def pieces(self, make: Callable[[str], Event], *words: str) -> Reading[str]:
        """Yields the text before the first of the words, as it arrives, and passes this word.

        Returns:
            The word; "": the text has ended.
        """
        while True:
            found = [(at, w) for w in words if (at := self._text.find(w, self._at)) >= 0]
            at, word = min(found, default=(len(self._text), ""))
            if not word and not self.is_whole:
                at -= _overlap(self._text[self._at :], words)
            text = self._text[self._at : at]
            self._at = at + len(word)
            if text:
                yield make(text)
            if word or not (yield from self.more()):
                return word

    def head(self, names: Container[str], may_lack_arguments: bool, end: str = "") -> Reading[Head]:
        """A call as a JSON object, up to its arguments. end: the marker that ends it.

        Raises:
            NoCall: it is none, or is incomplete.
        """
        least = 0
        while True:
            rest = self.rest
            stop = rest.find(end) if end else -1
            if len(rest) >= least or stop >= 0 or self.is_whole:
                try:
                    head = read_head(rest if stop < 0 else rest[:stop], names, may_lack_arguments)
                except Unclear:
                    if stop >= 0:
                        raise NoCall from None
                else:
                    self._at += head.at
                    return head
                # Each attempt parses everything: for each piece, that would be quadratic.
                least = len(rest) + len(rest) // _GROWTH
            if not (yield from self.more()):
                raise NoCall

    def json_object(self) -> Reading[bool]:
        """Yields a JSON object as arguments, as it arrives.

        Returns:
            Whether it is complete; otherwise a marker follows, or the text has ended.
        """
        depth, in_text = 0, False
        while True:
            at = self._at
            while found := (_IN_TEXT if in_text else _BRACKETS).search(self._text, at):
                at = found.end()
                if in_text:
                    in_text = found[0] != '"'
                elif found[0] == '"':
                    in_text = True
                elif found[0] == "<":
                    yield from self._argued(found.start())
                    return False
                else:
                    depth += 1 if found[0] in "{[" else -1
                    if depth == 0:
                        yield from self._argued(at)
                        return True
            # A backslash at the end escapes the next character.
            is_split = in_text and self._text.endswith("\\", at) and not self.is_whole
            yield from self._argued(len(self._text) - is_split)
            if not (yield from self.more()):
                return False

    def _argued(self, end: int) -> Reading[None]:
        text, self._at = self._text[self._at : end], end
        if text:
            yield Argued(text)


def _overlap(text: str, words: tuple[str, ...]) -> int:
    """The number of characters at the end of a text that may be the beginning of a word."""
    ends = range(1, min(max(map(len, words), default=0), len(text) + 1))
    return max((n for n in ends if any(w.startswith(text[-n:]) for w in words)), default=0)
