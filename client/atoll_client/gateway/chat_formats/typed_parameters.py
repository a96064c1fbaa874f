"""Tool calls with a tag for each parameter: Qwen3-Coder and GLM.

    <tool_call>
    <function=f>
    <parameter=city>
    Rome
    </parameter>
    </function>
    </tool_call>

    <tool_call>f
    <arg_key>city</arg_key>
    <arg_value>Rome</arg_value>
    </tool_call>

Values are text, or JSON of the type that the tool's schema has; texts are passed on as they are
generated.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from atoll_client.gateway.chat_formats.arguments import Arguments, escaped
from atoll_client.gateway.chat_formats.call_head import NoCall
from atoll_client.gateway.chat_formats.events import Argued, Called, Reading, Said
from atoll_client.gateway.chat_formats.reader import Calls, attempt, perhaps
from atoll_client.gateway.chat_formats.source import Source

_TAG, _END_TAG = "<tool_call>", "</tool_call>"
_FUNCTION, _END_FUNCTION = "<function=", "</function>"


class _TypedCalls(Calls):
    """parameter, key_end: around a parameter's name. value_ends: behind its value. last: behind the
    parameters."""

    end = _END_TAG
    parameter: ClassVar[str]
    key_end: ClassVar[str]
    value_ends: ClassVar[tuple[str, ...]]
    last: ClassVar[str]

    @abstractmethod
    def begin_value(self, source: Source) -> Reading[bool]:
        """Passes what precedes a value; False: there is none."""

    def call(self, source: Source, name: str, following: str) -> Reading[None]:
        """A call from its parameters on. following: ``parameter`` or ``last``, which is passed.

        Raises:
            NoCall: there is no such function, or something else follows its name.
        """
        if name not in self.functions or not following:
            raise NoCall
        source.commit()
        yield Called(name)
        arguments = Arguments(self.functions[name].get("parameters"))
        while following == self.parameter:
            end = yield from self._parameter(source, arguments)
            if not end:
                break
            following = end.strip()
            if following not in (self.parameter, self.last):
                yield from source.blank()
                following = yield from source.accept(self.parameter, self.last)
        # Arguments that are cut off stay incomplete, as in other formats.
        if following == self.last or not (yield from self._is_cut(source)):
            yield Argued(arguments.end)

    def _is_cut(self, source: Source) -> Reading[bool]:
        """Whether the text ends here, or within a marker, of which the part is passed."""
        yield from source.peek()
        rest = source.rest
        words = (self.parameter, self.last, *self.markers)
        is_cut = source.is_whole and any(word.startswith(rest) for word in words)
        if is_cut:
            source.take(len(rest))
        return is_cut

    def _parameter(self, source: Source, arguments: Arguments) -> Reading[str]:
        """A parameter; returns what ends its value, "" if it is incomplete."""
        key, found = yield from source.until(self.key_end)
        if not found or not (yield from self.begin_value(source)):
            return ""
        yield Argued(arguments.key(key))
        if arguments.is_text(key):
            yield Argued('"')
            end = yield from source.pieces(lambda text: Argued(escaped(text)), *self.value_ends)
            if end:
                yield Argued('"')
            return end
        text, end = yield from source.until(*self.value_ends)
        if end or text:
            yield Argued(arguments.value(key, text) if end else text)
        return end


class QwenCoderCalls(_TypedCalls):
    """Qwen3-Coder's and Qwen3.5's; the outer tag may be missing."""

    markers = (_TAG, _END_TAG)
    parameter, key_end, last = "<parameter=", ">", _END_FUNCTION
    # The model sometimes forgets the end tag, and goes on with the next line.
    value_ends = ("\n</parameter>", "</parameter>", "\n<parameter=", "\n</function>")

    def read(self, source: Source) -> Reading[None]:
        """See ``Calls``."""
        while start := (yield from source.pieces(Said, _TAG, _FUNCTION)):
            yield from attempt(source, start, self._function(source, start))

    def begin_value(self, source: Source) -> Reading[bool]:
        """See ``_TypedCalls``."""
        yield from source.accept("\n")
        return True

    def _function(self, source: Source, start: str) -> Reading[None]:
        if start == _TAG:
            yield from source.blank()
            if not (yield from source.accept(_FUNCTION)):
                raise NoCall
        name, _ = yield from source.until(">")
        yield from source.blank()
        following = yield from source.accept(self.parameter, self.last)
        yield from self.call(source, name.strip(), following)
        yield from perhaps(source, self._end(source))

    def _end(self, source: Source) -> Reading[bool]:
        yield from source.blank()
        if not (yield from source.close(_END_TAG)):
            raise NoCall
        return True


class GlmCalls(_TypedCalls):
    """Those of GLM-4.5 and later ones."""

    markers = (_TAG, _END_TAG, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    parameter, key_end, last = "<arg_key>", "</arg_key>", _END_TAG
    value_ends = ("</arg_value>",)

    def read(self, source: Source) -> Reading[None]:
        """See ``Calls``."""
        while (yield from source.pieces(Said, _TAG)):
            yield from attempt(source, _TAG, self._named(source))

    def begin_value(self, source: Source) -> Reading[bool]:
        """See ``_TypedCalls``."""
        yield from source.blank()
        return bool((yield from source.accept("<arg_value>")))

    def _named(self, source: Source) -> Reading[None]:
        name, following = yield from source.until(self.parameter, self.last)
        yield from self.call(source, name.strip(), following)
