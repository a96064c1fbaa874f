"""Tool calls as JSON lists behind a marker: Phi-4-mini and Granite 3.

functools[{"name": "f", "arguments": {"x": 1}}]
<|tool_call|>[{"arguments": {"x": 1}, "name": "f"}]

The template of Phi-4-mini has no place for tools. Models that are told of them in another way may
call them without the marker.
"""

from __future__ import annotations

from typing import ClassVar

from atoll_client.gateway.chat_formats.call_head import NoCall
from atoll_client.gateway.chat_formats.events import Reading, Said
from atoll_client.gateway.chat_formats.json_calls import bare_calls, call_list, call_object
from atoll_client.gateway.chat_formats.reader import Calls, attempt, perhaps
from atoll_client.gateway.chat_formats.source import Source


class _ListCalls(Calls):
    """starts: before a list. ends: behind it."""

    starts: ClassVar[tuple[str, ...]]
    ends: ClassVar[tuple[str, ...]]

    def read(self, source: Source) -> Reading[None]:
        """See ``Calls``."""
        yield from bare_calls(source, self.functions)
        while start := (yield from source.pieces(Said, *self.starts)):
            yield from attempt(source, start, self._list(source))

    def _list(self, source: Source) -> Reading[None]:
        yield from source.blank()
        if (yield from source.accept("[")):
            yield from call_list(source, self.functions)
        else:
            yield from call_object(source, self.functions)
        yield from perhaps(source, self._end(source))

    def _end(self, source: Source) -> Reading[bool]:
        yield from source.blank()
        for end in self.ends:
            if (yield from source.close(end)):
                return True
        raise NoCall


class PhiCalls(_ListCalls):
    """Phi-4-mini's."""

    starts = ("functools", "<|tool_call|>")
    ends = ("<|/tool_call|>",)
    markers = ("<|tool_call|>", "<|/tool_call|>")


class GraniteCalls(_ListCalls):
    """Granite 3's; 3.0 has a special token."""

    starts = ("<|tool_call|>", "<tool_call>")
    ends = ("</tool_call>",)
    markers = ("<|tool_call|>", "<tool_call>", "</tool_call>")
