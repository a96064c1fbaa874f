"""Kimi-K2's tool calls, whose ids have the name and a number that the model counts up.

<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>
{"x": 1}<|tool_call_end|><|tool_calls_section_end|>
"""

from __future__ import annotations

from atoll_client.gateway.chat_formats.call_head import NoCall
from atoll_client.gateway.chat_formats.events import Called, Reading
from atoll_client.gateway.chat_formats.reader import perhaps
from atoll_client.gateway.chat_formats.sections import SectionCalls
from atoll_client.gateway.chat_formats.source import Source

_ARGUMENTS, _END = "<|tool_call_argument_begin|>", "<|tool_call_end|>"


class KimiCalls(SectionCalls):
    """See the module."""

    section, section_end = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
    call, end = "<|tool_call_begin|>", _END
    markers = (section, section_end, call, _ARGUMENTS, _END)

    @staticmethod
    def new_id(name: str, index: int) -> str:
        """See ``Calls``."""
        return f"functions.{name}:{index}"

    def read_call(self, source: Source) -> Reading[None]:
        """See ``SectionCalls``."""
        written, _ = yield from source.until(_ARGUMENTS)
        call_id = written.strip()
        name = call_id.removeprefix("functions.").rpartition(":")[0]
        yield from source.blank()
        if name not in self.functions or (yield from source.peek()) != "{":
            raise NoCall
        source.commit()
        yield Called(name, call_id)
        yield from source.json_object()
        yield from perhaps(source, self._end(source))

    def _end(self, source: Source) -> Reading[bool]:
        yield from source.blank()
        if not (yield from source.close(_END)):
            raise NoCall
        return True
