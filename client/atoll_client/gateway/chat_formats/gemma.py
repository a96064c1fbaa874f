"""Gemma's tool calls: keys without quotes, and a marker around texts.

<|tool_call>call:f{city:<|"|>Rome<|"|>,days:[1,2]}<tool_call|>
<start_function_call>call:f{city:<escape>Rome<escape>}<end_function_call>
"""

from __future__ import annotations

import re
from typing import ClassVar

from atoll_client.gateway.chat_formats.arguments import parsed, written
from atoll_client.gateway.chat_formats.call_head import NoCall
from atoll_client.gateway.chat_formats.events import Argued, Called, Reading, Said
from atoll_client.gateway.chat_formats.reader import Calls, attempt
from atoll_client.gateway.chat_formats.source import Source

_PART = re.compile(r"[{}\[\],:]|[^{}\[\],:]+")


class _MarkedCalls(Calls):
    """start: before a call. quote: around a text."""

    start: ClassVar[str]
    quote: ClassVar[str]

    def read(self, source: Source) -> Reading[None]:
        """See ``Calls``."""
        while (yield from source.pieces(Said, self.start)):
            yield from attempt(source, self.start, self._call(source))

    def _call(self, source: Source) -> Reading[None]:
        yield from source.blank()
        if not (yield from source.accept("call:")):
            raise NoCall
        name, _ = yield from source.before("{", self.end)
        name = name.strip()
        if name not in self.functions:
            raise NoCall
        arguments = yield from self._arguments(source)
        source.commit()
        yield Called(name)
        yield Argued(arguments)

    def _arguments(self, source: Source) -> Reading[str]:
        """The arguments as JSON; passes the end of the call. Raises NoCall: they are none."""
        parts: list[str] = []
        word = self.quote
        while word == self.quote:
            text, word = yield from source.until(self.quote, self.end)
            parts += _as_json(text)
            if word == self.quote:
                text, closing = yield from source.until(self.quote)
                parts.append(written(text))
                word = closing
        try:
            found = parsed("".join(parts))
            if word and isinstance(found, dict):
                return written(found)
        except (ValueError, RecursionError):
            pass
        raise NoCall


class GemmaCalls(_MarkedCalls):
    """Gemma 4's."""

    start, end, quote = "<|tool_call>", "<tool_call|>", '<|"|>'
    markers = (start, end, quote)


class FunctionGemmaCalls(_MarkedCalls):
    """FunctionGemma's."""

    start, end, quote = "<start_function_call>", "<end_function_call>", "<escape>"
    markers = (start, end, quote)


def _as_json(text: str) -> list[str]:
    """What is outside of quotes: brackets, keys, and constants; another word is a text."""
    parts = _PART.findall(text)
    found = []
    for part, following in zip(parts, [*parts[1:], ""], strict=False):
        word = part.strip()
        if word in {*"{}[],:"} or not word:
            found.append(word)
        else:
            found.append(written(word) if following == ":" else _constant(word))
    return found


def _constant(word: str) -> str:
    try:
        return written(parsed(word))
    except ValueError:
        return written(word)
