"""Reads an answer as it comes, and tells its tool calls from its text: the same for every split.

Models write calls as JSON objects of a name and arguments: between ``<tool_call>`` tags (Hermes,
Qwen, SmolLM), anywhere in an answer, or bare at its beginning, one or a list of them (Llama,
Mistral). A call is known by its beginning, ``{"name": "f", "arguments": {``, so that its name and
then its arguments can go on at once, as they were written. What turns out not to be a call is text.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from enum import Enum, auto
from typing import NamedTuple

from atoll_client.gateway.openai.tool_head import BLANK, Head, NoCall, Unclear, blank, read_head

TAG, END_TAG = "<tool_call>", "</tool_call>"
# Of an object in JSON: where a string or a bracket is, or a tag, which ends what is broken off.
_BRACKETS = re.compile(r'["{}\[\]<]')
_IN_TEXT = re.compile(r'\\.|"', re.DOTALL)


class Said(NamedTuple):
    """Text of the answer."""

    text: str


class Called(NamedTuple):
    """A call begins."""

    name: str


class Argued(NamedTuple):
    """The arguments of the last call go on."""

    text: str


Event = Said | Called | Argued


class _State(Enum):
    TEXT = auto()
    HEAD = auto()
    ARGUMENTS = auto()
    TAIL = auto()
    NEXT = auto()


class _Shape(Enum):
    """Where a call stands."""

    BARE = auto()
    LIST = auto()
    TAGGED = auto()


class ToolReader:
    """``feed`` an answer's pieces, then ``finish``; both give what has become clear.

    names: of the tools. max_calls: further ones are passed over.
    """

    def __init__(self, names: Container[str], max_calls: int | None = None) -> None:
        self._names, self._max_calls = names, max_calls
        self.num_calls = 0
        self._state, self._shape = _State.TEXT, _Shape.BARE
        self._held = ""
        # What has been taken since the object began, to be said if it is no call.
        self._taken = ""
        self._may_be_bare = True
        self._depth, self._in_text = 0, False
        self._is_muted = False

    @property
    def is_inside(self) -> bool:
        """Whether a call's arguments go on."""
        return self._state is _State.ARGUMENTS

    def feed(self, text: str) -> Iterator[Event]:
        """What is clear after one more piece."""
        self._held += text
        yield from self._run(is_whole=False)

    def finish(self) -> Iterator[Event]:
        """What is left when nothing follows."""
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
        """An object may follow; what is before ``end`` has been taken."""
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
        """None: the object is no call, or it ends before it is one."""
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
        """Where the arguments end in what is held; what is unclear is left for later."""
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
        # A backslash at the end belongs to what follows.
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
        """Behind an object."""
        start = BLANK.match(self._held)
        at = start.end() if start else 0
        rest = self._held[at:]
        if self._shape is _Shape.BARE:
            # Another may follow, on a line of its own.
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
            # Cut off with the answer, or not yet complete.
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
    """How many characters at the end of a text may begin a tag."""
    ends = range(1, min(len(tag), len(text) + 1))
    return max((n for n in ends if tag.startswith(text[-n:])), default=0)
