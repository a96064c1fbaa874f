"""Tool calls between markers, within a section of their own: DeepSeek and Kimi-K2.

Templates of DeepSeek have no place for tools. Models that are told of them in another way may call
them as JSON objects without markers.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from atoll_client.gateway.chat_formats.call_head import NoCall
from atoll_client.gateway.chat_formats.events import Reading, Said
from atoll_client.gateway.chat_formats.json_calls import bare_calls
from atoll_client.gateway.chat_formats.reader import Calls, attempt, perhaps
from atoll_client.gateway.chat_formats.source import Source


class SectionCalls(Calls):
    """section, section_end: around all calls. call: before each of them."""

    section: ClassVar[str]
    section_end: ClassVar[str]
    call: ClassVar[str]

    @abstractmethod
    def read_call(self, source: Source) -> Reading[None]:
        """A call behind its marker. Raises NoCall: it is none; nothing was yielded."""

    def read(self, source: Source) -> Reading[None]:
        """See ``Calls``."""
        yield from bare_calls(source, self.functions)
        while start := (yield from source.pieces(Said, self.section, self.call)):
            yield from attempt(source, start, self._calls(source, start))

    def _calls(self, source: Source, start: str) -> Reading[None]:
        if start == self.section:
            yield from source.blank()
            if not (yield from source.accept(self.call)):
                raise NoCall
        yield from self.read_call(source)
        while (yield from perhaps(source, self._next(source))):
            pass

    def _next(self, source: Source) -> Reading[bool]:
        """Another call, or the end of the section; True: a call."""
        yield from source.blank()
        if (yield from source.close(self.section_end)):
            return False
        if not (yield from source.accept(self.call)):
            raise NoCall
        yield from self.read_call(source)
        return True
