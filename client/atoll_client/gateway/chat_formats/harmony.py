"""gpt-oss' messages (harmony), of which an answer has several:

    <|channel|>analysis<|message|>reasoning<|end|>
    <|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>
    <|start|>assistant<|channel|>final<|message|>text<|return|>

The recipient may come before the channel. Commentary without a recipient is for the user.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from atoll_client.gateway.chat_formats.events import Argued, Called, Event, Reading, Reasoned, Said
from atoll_client.gateway.chat_formats.reader import Calls, Format, Reasoning, piped
from atoll_client.gateway.chat_formats.source import Source

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_CONSTRAIN = "<|constrain|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_MARKERS = (_START, _CHANNEL, _MESSAGE, _CONSTRAIN, *_ENDS)
# With what a header begins, if the prompt has the beginning.
_HEADERS = (_START, _CHANNEL, _CONSTRAIN, _MESSAGE, "to=", " to=")
_CHANNEL_NAME = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=(\S+?)(?=\s|<|$)")
# What a header that was cut off consists of, except for its last part.
_WORDS = ("assistant", "analysis", "commentary", "final", "json", _START, _CHANNEL, _CONSTRAIN)
_HEADER_PARTS = re.compile("(?:" + "|".join(map(re.escape, _WORDS)) + r"|to=[\w.\-]*|\s)*")


class HarmonyCalls(Calls):
    """Calls of the tools; see the module."""

    markers = _MARKERS

    def read(self, source: Source) -> Reading[None]:
        """See ``Calls``."""
        yield from HarmonyFormat(calls=self).read(source, "")


class HarmonyReasoning(Reasoning):
    """Messages of the channel analysis."""

    @property
    def markers(self) -> tuple[str, ...]:
        """See ``Reasoning``."""
        return _MARKERS

    def read(self, source: Source, state: str) -> Reading[None]:
        """See ``Reasoning``: the whole answer, as its text is in messages, too."""
        yield from HarmonyFormat(self).read(source, state)

    def option(self) -> dict[str, Any]:
        """See ``Reasoning``."""
        return {
            "opening": f"{_CHANNEL}analysis{_MESSAGE}", "closing": "<|end|>",
            "bridge": f"{_START}assistant{_CHANNEL}final{_MESSAGE}",
        }  # fmt: skip


@dataclass(frozen=True)
class HarmonyFormat(Format):
    """Without reasoning, the text of the analysis is text of the answer. Calls of another format
    are in the text of messages."""

    def read(self, source: Source, state: str) -> Reading[None]:
        """See ``Format``."""
        yield from _Messages(self, source).read(state)


class _Messages:
    """Reads the messages of one answer."""

    def __init__(self, form: HarmonyFormat, source: Source) -> None:
        self._form, self._source = form, source
        self._calls = form.calls if isinstance(form.calls, HarmonyCalls) else None
        self._begun: set[type[Event]] = set()

    def read(self, state: str) -> Reading[None]:
        word = ""
        if state:
            word = yield from self._text(Said if state == "closed" else self._thought)
            if state == "open":
                self._source.mark()
        while word or (yield from self._source.peek()):
            word = yield from self._message(word)

    @property
    def _thought(self) -> type[Said] | type[Reasoned]:
        return Said if self._form.reasoning is None else Reasoned

    def _message(self, word: str) -> Reading[str]:
        """A message. word: the marker that was read before it; returns that behind it."""
        if word not in (_START, _CHANNEL):
            word = yield from self._source.accept(*_HEADERS)
        if not word:
            return (yield from self._text(Said))
        header = word
        if word != _MESSAGE:
            inside, found = yield from self._source.until(_MESSAGE)
            header += inside
            if not found:  # the answer was cut off
                rest = _HEADER_PARTS.sub("", header, count=1)
                if not any(one.startswith(rest) for one in (*_WORDS, _MESSAGE, "to=")):
                    yield Said(header)
                return ""
        channel, recipient = _CHANNEL_NAME.search(header), _RECIPIENT.search(header)
        kind = "" if channel is None else channel[1]
        if recipient is not None:
            return (yield from self._call(header, recipient[1]))
        if kind in ("final", "commentary", ""):
            return (yield from self._text(Said))
        if kind == "analysis":
            end = yield from self._text(self._thought)
            self._source.mark()
            return end
        return (yield from self._as_written(header))

    def _call(self, header: str, recipient: str) -> Reading[str]:
        name = recipient.removeprefix("functions.")
        if self._calls is None or name not in self._calls.functions:
            return (yield from self._as_written(header))
        yield from self._source.blank()
        if end := (yield from self._source.accept(*_ENDS)):
            yield Called(name)
            yield Argued("{}")
            return end
        if (yield from self._source.peek()) not in ("{", ""):
            return (yield from self._as_written(header))
        yield Called(name)
        return (yield from self._source.pieces(Argued, *_ENDS, _START, _CHANNEL))

    def _as_written(self, header: str) -> Reading[str]:
        """A message that is for nobody here is text, with its markers."""
        yield Said(header if header.endswith(_MESSAGE) else header + _MESSAGE)
        end = yield from self._source.pieces(Said, *_ENDS, _START, _CHANNEL)
        if end in _ENDS:
            yield Said(end)
        return end

    def _text(self, make: Callable[[str], Event]) -> Reading[str]:
        """The text of a message, on a line of its own behind others."""
        reading = self._source.pieces(make, *_ENDS, _START, _CHANNEL)
        if make is Said and self._form.calls is not None and self._calls is None:
            reading = piped(reading, self._form.calls)
        is_first = True
        while True:
            try:
                event = next(reading)
            except StopIteration as end:
                return str(end.value)
            if event is not None and is_first:
                is_first = False
                if type(event) in self._begun:
                    yield make("\n")
                self._begun.add(type(event))
            yield event
