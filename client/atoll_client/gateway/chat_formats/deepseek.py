"""DeepSeek's tool calls: those of V3 and R1, and those of V3.1.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f
```json
{"x": 1}
```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"x": 1}<｜tool▁call▁end｜>...
"""

from __future__ import annotations

from atoll_client.gateway.chat_formats.call_head import NoCall
from atoll_client.gateway.chat_formats.events import Called, Reading
from atoll_client.gateway.chat_formats.reader import perhaps
from atoll_client.gateway.chat_formats.sections import SectionCalls
from atoll_client.gateway.chat_formats.source import Source

_SEPARATOR, _END, _FENCE = "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "```"


class DeepSeekCalls(SectionCalls):
    """See the module."""

    section, section_end = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
    call, end = "<｜tool▁call▁begin｜>", _END
    markers = (section, section_end, call, _SEPARATOR, _END)

    def read_call(self, source: Source) -> Reading[None]:
        """See ``SectionCalls``."""
        name, _ = yield from source.until(_SEPARATOR)
        yield from source.blank()
        if (yield from source.peek()) != "{":
            name, _ = yield from source.until(_FENCE)
            yield from source.accept("json")
            yield from source.blank()
        name = name.strip()
        if name not in self.functions or (yield from source.peek()) != "{":
            raise NoCall
        source.commit()
        yield Called(name)
        yield from source.json_object()
        yield from perhaps(source, self._end(source))

    def _end(self, source: Source) -> Reading[bool]:
        yield from source.blank()
        yield from source.close(_FENCE)
        yield from source.blank()
        if not (yield from source.close(_END)):
            raise NoCall
        return True
