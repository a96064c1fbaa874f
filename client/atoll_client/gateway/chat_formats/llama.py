"""Llama's tool calls: JSON objects or calls in Python's notation, at the beginning of an answer or
behind a special token.

    {"name": "f", "parameters": {"x": 1}}; {"name": "g", "parameters": {}}
    <|python_tag|>{"name": "f", "parameters": {"x": 1}}
    [f(x=1), g()]
"""

from __future__ import annotations

from atoll_client.gateway.chat_formats.call_head import NoCall
from atoll_client.gateway.chat_formats.events import Reading, Said
from atoll_client.gateway.chat_formats.json_calls import call_list, call_object
from atoll_client.gateway.chat_formats.python_calls import python_list
from atoll_client.gateway.chat_formats.reader import Calls, attempt, perhaps
from atoll_client.gateway.chat_formats.source import Source

_STARTS = ("<|python_tag|>", "<|python_start|>")
_END = "<|python_end|>"


class LlamaCalls(Calls):
    """See the module."""

    markers = (*_STARTS, _END)

    def read(self, source: Source) -> Reading[None]:
        """See ``Calls``."""
        yield from perhaps(source, self._calls(source))
        while start := (yield from source.pieces(Said, *_STARTS)):
            yield from attempt(source, start, self._calls(source))

    def _calls(self, source: Source) -> Reading[bool]:
        yield from source.blank()
        if (yield from source.accept("[")):
            yield from source.blank()
            is_json = (yield from source.peek()) == "{"
            read_list = call_list if is_json else python_list
            yield from read_list(source, self.functions)
        else:
            yield from call_object(source, self.functions)
            while (yield from perhaps(source, self._next(source))):
                pass
        return (yield from perhaps(source, self._end(source)))

    def _next(self, source: Source) -> Reading[bool]:
        """Another object, on a line of its own or behind a semicolon."""
        yield from source.blank()
        yield from source.accept(";")
        yield from call_object(source, self.functions)
        return True

    def _end(self, source: Source) -> Reading[bool]:
        yield from source.blank()
        if not (yield from source.close(_END)):
            raise NoCall
        return True
