"""Splits an answer into reasoning, text and tool calls while it is streamed.

Reasoning comes first; what follows is read by the format of the model's tool calls. Whatever looks
like a call but is none stays text, as it was written.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from atoll_client.gateway.chat_formats.call_head import NoCall
from atoll_client.gateway.chat_formats.events import Argued, Called, Event, Reading, Said
from atoll_client.gateway.chat_formats.source import Source

# OpenAI's ``function`` objects of the tools that may be called, by name.
Functions = Mapping[str, Mapping[str, Any]]


class Calls(ABC):
    """How a model writes tool calls.

    markers: what may be special tokens of its vocabulary, which have to be part of the text. end:
    what ends a call and appears nowhere else, if there is such a text.
    """

    markers: ClassVar[tuple[str, ...]] = ()
    end: ClassVar[str] = ""

    def __init__(self, functions: Functions) -> None:
        self.functions = functions

    @abstractmethod
    def read(self, source: Source) -> Reading[None]:
        """The text and the calls up to the end."""

    @staticmethod
    def new_id(name: str, index: int) -> str:
        """The id of a call for which the model has written none. index: of the conversation's."""
        return f"call_{secrets.token_hex(12)}"


class Reasoning(ABC):
    """How a model writes its reasoning."""

    @property
    @abstractmethod
    def markers(self) -> tuple[str, ...]:
        """What may be special tokens of its vocabulary; see ``Calls``."""

    @abstractmethod
    def read(self, source: Source, state: str) -> Reading[None]:
        """The reasoning at the beginning, if there is any.

        state: whether the prompt has left reasoning "open", has "closed" it, or neither, "".
        """

    @property
    def frame(self) -> tuple[str, str] | None:
        """Tags around the text behind the reasoning, if there are any."""
        return None

    @abstractmethod
    def option(self) -> dict[str, Any]:
        """The model's option ``reasoning``."""


@dataclass(frozen=True)
class Format:
    """How to read the answers to a request; None: there is no reasoning, or no calls.

    max_calls: further calls are dropped. new_id: see ``Calls``.
    """

    reasoning: Reasoning | None = None
    calls: Calls | None = None
    max_calls: int | None = None
    new_id: Callable[[str, int], str] = Calls.new_id

    def read(self, source: Source, state: str) -> Reading[None]:
        """The whole answer. state: see ``Reasoning.read``."""
        if self.reasoning is not None:
            yield from self.reasoning.read(source, state)
            if self.reasoning.frame is not None:
                yield from self._framed(source, *self.reasoning.frame)
        if self.calls is not None:
            yield from self.calls.read(source)
        else:
            yield from source.pieces(Said)

    @property
    def markers(self) -> tuple[str, ...]:
        """Special tokens that have to be part of the text."""
        parts = (self.reasoning, self.calls)
        return tuple({m: None for part in parts if part is not None for m in part.markers})

    def _framed(self, source: Source, opening: str, closing: str) -> Reading[None]:
        if (yield from source.accept(opening)):
            reading = source.pieces(Said, closing)
            yield from reading if self.calls is None else piped(reading, self.calls)


class AnswerReader:
    """Call ``feed`` with each piece of an answer, and ``finish`` at the end.

    state: see ``Reasoning.read``.
    """

    def __init__(self, form: Format, state: str = "") -> None:
        self._max_calls, self._source = form.max_calls, Source()
        self._reading = form.read(self._source, state)
        self.num_calls = 0

    def feed(self, text: str) -> Iterator[Event]:
        """The events of one more piece."""
        self._source.add(text)
        yield from self._available()

    def finish(self) -> Iterator[Event]:
        """The events at the end of the answer."""
        self._source.is_whole = True
        yield from self._available()

    def behind_reasoning(self) -> int | None:
        """Characters behind the reasoning, if it has ended within the last piece."""
        found, self._source.num_behind = self._source.num_behind, None
        return found

    def _available(self) -> Iterator[Event]:
        for event in self._reading:
            if event is None:
                return
            if isinstance(event, Called):
                self.num_calls += 1
            if not (isinstance(event, Called | Argued) and self._is_muted):
                yield event

    @property
    def _is_muted(self) -> bool:
        return self._max_calls is not None and self.num_calls > self._max_calls


def attempt(source: Source, taken: str, call: Reading[Any]) -> Reading[None]:
    """A call that begins behind ``taken``; if there is none, this is text, and what follows is
    still to be read. Before it yields anything, a call commits; until then it may raise NoCall.
    """
    source.keep()
    try:
        yield from call
    except NoCall:
        source.rewind()
        yield Said(taken)
    source.commit()


def perhaps(source: Source, call: Reading[bool]) -> Reading[bool]:
    """What the call returns; False: there is none, and its text is still to be read."""
    source.keep()
    try:
        found = yield from call
    except NoCall:
        source.rewind()
        return False
    source.commit()
    return found


def piped(reading: Reading[str], calls: Calls) -> Reading[str]:
    """Reads text that was read, the content of a message, for calls; returns the same."""
    reader = AnswerReader(Format(calls=calls))
    while True:
        try:
            event = next(reading)
        except StopIteration as end:
            yield from reader.finish()
            return str(end.value)
        if event is None:
            yield None
        elif isinstance(event, Said):
            yield from reader.feed(event.text)
