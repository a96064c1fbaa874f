"""Mistral's tool calls: a list of JSON objects, or since version 11 of their tokenizer names.

[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}}]
[TOOL_CALLS]f{"x": 1}[TOOL_CALLS]g[CALL_ID]abcdefgh1[ARGS]{}
"""

from __future__ import annotations

import secrets
import string

from atoll_client.gateway.chat_formats.call_head import NoCall
from atoll_client.gateway.chat_formats.events import Called, Reading, Said
from atoll_client.gateway.chat_formats.json_calls import call_list, call_object
from atoll_client.gateway.chat_formats.reader import Calls, attempt
from atoll_client.gateway.chat_formats.source import Source

_START, _ARGS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
# Its templates refuse ids of any other length or with other characters.
_ID_LENGTH = 9
_ID_CHARACTERS = string.ascii_letters + string.digits


class MistralCalls(Calls):
    """See the module."""

    markers = (_START, _ARGS, _ID)

    @staticmethod
    def new_id(name: str, index: int) -> str:
        """See ``Calls``."""
        return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))

    def read(self, source: Source) -> Reading[None]:
        """See ``Calls``."""
        while (yield from source.pieces(Said, _START)):
            yield from attempt(source, _START, self._call(source))

    def _call(self, source: Source) -> Reading[None]:
        yield from source.blank()
        if (yield from source.accept("[")):
            yield from call_list(source, self.functions)
        elif (yield from source.peek()) == "{":
            yield from call_object(source, self.functions)
        else:
            yield from self._named(source)

    def _named(self, source: Source) -> Reading[None]:
        name, word = yield from source.before("{", _ARGS, _ID)
        call_id = None
        if (yield from source.accept(_ID)):
            call_id, word = yield from source.before("{", _ARGS)
        yield from source.accept(_ARGS)
        yield from source.blank()
        name = name.strip()
        if name not in self.functions or (yield from source.peek()) != "{":
            raise NoCall
        source.commit()
        yield Called(name, None if call_id is None else call_id.strip())
        yield from source.json_object()
