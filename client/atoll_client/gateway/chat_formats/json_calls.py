"""Tool calls as JSON objects of a name and arguments: Hermes, Qwen2.5, Qwen3, SmolLM, Granite 4.

    <tool_call>
    {"name": "f", "arguments": {"x": 1}}
    </tool_call>

They are between tags anywhere in an answer or, without tags, at its beginning, one or a list of
them, as models write them that were told of tools in any other way. A call is recognized by its
beginning, ``{"name": "f", "arguments": {``. From there on, its arguments are passed on as they are
generated. Objects that turn out to be no calls are text.
"""

from __future__ import annotations

from atoll_client.gateway.chat_formats.call_head import NoCall
from atoll_client.gateway.chat_formats.events import Argued, Called, Reading, Said
from atoll_client.gateway.chat_formats.reader import Calls, Functions, attempt, perhaps
from atoll_client.gateway.chat_formats.source import Source

TAG, END_TAG = "<tool_call>", "</tool_call>"


class JsonCalls(Calls):
    """See the module."""

    markers = (TAG, END_TAG)
    end = END_TAG

    def read(self, source: Source) -> Reading[None]:
        """See ``Calls``."""
        yield from bare_calls(source, self.functions)
        while (yield from source.pieces(Said, TAG)):
            yield from attempt(source, TAG, self._tagged(source))

    def _tagged(self, source: Source) -> Reading[None]:
        yield from call_object(source, self.functions, may_lack_arguments=True, end=END_TAG)
        while (yield from perhaps(source, self._following(source))):
            pass

    def _following(self, source: Source) -> Reading[bool]:
        """Another object before the end tag, or the end tag; True: an object."""
        yield from source.blank()
        if (yield from source.close(END_TAG)):
            return False
        yield from call_object(source, self.functions, may_lack_arguments=True, end=END_TAG)
        return True


def bare_calls(source: Source, functions: Functions) -> Reading[None]:
    """Calls without any marker, with which an answer may begin."""
    # After an object, another may follow on its own line.
    while (yield from perhaps(source, _bare(source, functions))):
        pass


def _bare(source: Source, functions: Functions) -> Reading[bool]:
    """A call, or a list of them; True: a call after which another may follow."""
    yield from source.blank()
    if (yield from source.accept("[")):
        yield from call_list(source, functions)
        return False
    if (yield from source.peek()) != "{":
        raise NoCall
    return (yield from call_object(source, functions))


def call_object(
    source: Source, functions: Functions, may_lack_arguments: bool = False, end: str = ""
) -> Reading[bool]:
    """A call as a JSON object. end: the marker that ends it, even if it is incomplete.

    Returns:
        Whether it is complete.

    Raises:
        NoCall: it is none; nothing was yielded.
    """
    head = yield from source.head(functions, may_lack_arguments, end)
    source.commit()
    yield Called(head.name)
    if head.arguments is not None:
        yield Argued(head.arguments)
        return True
    is_complete = yield from source.json_object()
    return is_complete and (yield from perhaps(source, _end_of_object(source)))


def call_list(source: Source, functions: Functions) -> Reading[None]:
    """Calls as a list of JSON objects, behind its bracket. Raises NoCall: the first is none."""
    yield from call_object(source, functions)
    while (yield from perhaps(source, _next_of_list(source, functions))):
        pass


def _end_of_object(source: Source) -> Reading[bool]:
    """What follows the arguments: the object's brace, perhaps an id or a type before it."""
    yield from source.blank()
    while (yield from source.accept(",")):
        for expected in (('"id"', '"type"'), (":",), ('"',)):
            yield from source.blank()
            if not (yield from source.accept(*expected)):
                raise NoCall
        yield from source.until('"')
        yield from source.blank()
    if not (yield from source.accept("}")):
        raise NoCall
    return True


def _next_of_list(source: Source, functions: Functions) -> Reading[bool]:
    """Another call, or the end of the list; True: a call."""
    yield from source.blank()
    following = yield from source.accept(",", "]")
    if not following:
        raise NoCall
    if following == ",":
        yield from call_object(source, functions)
    return following == ","
