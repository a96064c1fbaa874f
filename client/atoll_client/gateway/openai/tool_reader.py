"""Separates tool calls from text while an answer is streamed, regardless of how it is split.

Models write calls as JSON objects of a name and arguments: between ``<tool_call>`` tags anywhere in
an answer (Hermes, Qwen, SmolLM), or without tags at its beginning, one or a list of them (Llama,
Mistral). A call is recognized by its beginning, ``{"name": "f", "arguments": {``. From there on,
its arguments are passed on as they are generated. Objects that turn out to be no calls are text.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from enum import Enum, auto
from typing import NamedTuple

from atoll_client.gateway.openai.tool_head import BLANK, Head, NoCall, Unclear, blank, read_head

TAG, END_TAG = "<tool_call>", "</tool_call>"
# In an object: a string, a bracket, or a tag, which ends an incomplete object.
_BRACKETS = re.compile(r'["{}\[\]<]')
_IN_TEXT = re.compile(r'\\.|"', re.DOTALL)


class Said(NamedTuple):
    """Text of the answer."""

    text: str


class Called(NamedTuple):
    """The beginning of a call."""

    name: str


class Argued(NamedTuple):
    """A piece of the arguments of the last call."""

    text: str


Event = Said | Called | Argued


class _State(Enum):
    TEXT = auto()
    HEAD = auto()
    ARGUMENTS = auto()
    TAIL = auto()
    NEXT = auto()


class _Shape(Enum):
    """The form of a call."""

    BARE = auto()
    LIST = auto()
    TAGGED = auto()


class ToolReader:
    """Call ``feed`` with each piece of an answer, and ``finish`` at the end.

    names: the tools. max_calls: further calls are dropped.
    """

    def __init__(self, names: Container[str], max_calls: int | None = None) -> None:
        self._names, self._max_calls = names, max_calls
        self.num_calls = 0
        self._state, self._shape = _State.TEXT, _Shape.BARE
        self._held = ""
        # The text since the beginning of the object, in case that it is not a call.
        self._taken = ""
        self._may_be_bare = True
        self._depth, self._in_text = 0, False
        self._is_muted = False

    @property
    def is_inside(self) -> bool:
        """Whether the arguments of a call are incomplete."""
        return self._state is _State.ARGUMENTS

    def feed(self, text: str) -> Iterator[Event]:
        """The events of one more piece."""
        self._held += text
        yield from self._run(is_whole=False)

    def finish(self) -> Iterator[Event]:
        """The events at the end of the answer."""
        yield from self._run(is_whole=True)
        rest, self._held = self._held, ""
        if self._state is _State.HEAD:
            rest = self._taken + rest
        if rest and self._state in (_State.TEXT, _State.HEAD):
            yield Said(rest)

    def _run(self, is_whole: bool) -> Iterator[Event]:
        steps = {
            _State.TEXT: self._text, _State.HEAD: self._head, _State.ARGUMENTS: self._arguments,
            _State.TAIL: self._tail, _State.NEXT: self._next,
        }  # fmt: skip
        try:
            while self._held:
                yield from steps[self._state](is_whole)
        except Unclear:
            return

    def _text(self, is_whole: bool) -> Iterator[Event]:
        start = BLANK.match(self._held)
        at = start.end() if start else 0
        if self._may_be_bare:
            if at == len(self._held):
                raise Unclear
            if self._held[at] in "{[":
                shape = _Shape.BARE if self._held[at] == "{" else _Shape.LIST
                self._begin(shape, at, at + (shape is _Shape.LIST))
                return
            self._may_be_bare = False
        at = self._held.find(TAG)
        if at >= 0:
            said = self._held[:at]
            self._held = self._held[at:]
            self._begin(_Shape.TAGGED, 0, len(TAG))
        else:
            held = 0 if is_whole else _overlap(self._held, TAG)
            said = self._held[: len(self._held) - held]
            self._held = self._held[len(said) :]
        if said:
            yield Said(said)
        if at < 0:
            raise Unclear

    def _begin(self, shape: _Shape, start: int, end: int) -> None:
        """Begins an object at ``end``; the text before is kept in case that it is not a call."""
        self._taken, self._held = self._held[:end], self._held[end:]
        self._shape, self._state = shape, _State.HEAD

    def _head(self, is_whole: bool) -> Iterator[Event]:
        head = self._read_head()
        if head is None:
            yield Said(self._taken + self._held[:1])
            self._held = self._held[1:]
            self._rest_is_text()
            return
        self._is_muted = self._max_calls is not None and self.num_calls >= self._max_calls
        self._taken, self._held = "", self._held[head.at :]
        if not self._is_muted:
            self.num_calls += 1
            yield Called(head.name)
        if head.arguments is None:
            self._state = _State.ARGUMENTS
            return
        if not self._is_muted:
            yield Argued(head.arguments)
        self._state = _State.NEXT

    def _read_head(self) -> Head | None:
        """None: the object is not a call, or is incomplete."""
        end = self._held.find(END_TAG) if self._shape is _Shape.TAGGED else -1
        text = self._held if end < 0 else self._held[:end]
        try:
            return read_head(text, self._names, self._shape is _Shape.TAGGED)
        except NoCall:
            return None
        except Unclear:
            if end < 0:
                raise
            return None

    def _arguments(self, is_whole: bool) -> Iterator[Event]:
        end = self._end_of_object()
        piece, self._held = self._held[:end], self._held[end:]
        if self._depth == 0:
            self._state = _State.TAIL
        if piece and not self._is_muted:
            yield Argued(piece)
        if self.is_inside:
            raise Unclear

    def _end_of_object(self) -> int:
        """The index where the arguments end, or how much of them is certain."""
        at = 0
        while found := (_IN_TEXT if self._in_text else _BRACKETS).search(self._held, at):
            at = found.end()
            if self._in_text:
                self._in_text = found[0] != '"'
            elif found[0] == '"':
                self._in_text = True
            elif found[0] == "<":
                self._depth = 0
                return found.start()
            else:
                self._depth += 1 if found[0] in "{[" else -1
                if self._depth == 0:
                    return at
        # A backslash at the end escapes the next character.
        is_split = self._in_text and self._held[at:].endswith("\\")
        return len(self._held) - is_split

    def _tail(self, is_whole: bool) -> Iterator[Event]:
        at = blank(self._held, 0)
        if self._held[at] == "}":
            self._held = self._held[at + 1 :]
            self._state = _State.NEXT
        elif self._shape is _Shape.TAGGED:
            self._state = _State.NEXT
        else:
            self._rest_is_text()
        yield from ()

    def _next(self, is_whole: bool) -> Iterator[Event]:
        """Reads what follows an object."""
        start = BLANK.match(self._held)
        at = start.end() if start else 0
        rest = self._held[at:]
        if self._shape is _Shape.BARE:
            # Another one may follow on its own line.
            self._state, self._may_be_bare = _State.TEXT, True
        elif self._shape is _Shape.LIST:
            if not rest:
                raise Unclear
            if rest[0] == ",":
                self._begin(_Shape.LIST, 0, at + 1)
            elif rest[0] == "]":
                self._held = rest[1:]
                self._rest_is_text()
            else:
                self._rest_is_text()
        elif rest.startswith(END_TAG):
            self._held = rest[len(END_TAG) :]
            self._rest_is_text()
        elif END_TAG.startswith(rest):
            # The end tag is incomplete.
            self._held = "" if is_whole else self._held
            raise Unclear
        elif rest.startswith("{"):
            self._begin(_Shape.TAGGED, 0, at)
        else:
            self._rest_is_text()
        yield from ()

    def _rest_is_text(self) -> None:
        self._state, self._may_be_bare = _State.TEXT, False
        self._depth, self._in_text = 0, False


def _overlap(text: str, tag: str) -> int:
    """The number of characters at the end of a text that may be the beginning of a tag."""
    ends = range(1, min(len(tag), len(text) + 1))
    return max((n for n in ends if tag.startswith(text[-n:])), default=0)
