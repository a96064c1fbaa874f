"""Tool calls in Python's notation, with literals as arguments: Llama 3.2 and 4, and OLMo 3.

[f(city='Rome', days=[1, 2]), g()]

<function_calls>f(city='Rome')
g()</function_calls>
"""

from __future__ import annotations

import ast
import re

from atoll_client.gateway.chat_formats.arguments import value_of, written
from atoll_client.gateway.chat_formats.call_head import NoCall
from atoll_client.gateway.chat_formats.events import Argued, Called, Reading, Said
from atoll_client.gateway.chat_formats.json_calls import bare_calls
from atoll_client.gateway.chat_formats.reader import Calls, Functions, attempt, perhaps
from atoll_client.gateway.chat_formats.source import Source

_NAME = re.compile(r"\s*[^\W\d][\w.\-]*\s*\(")
_BEGUN = re.compile(r"\s*([^\W\d][\w.\-]*\s*)?")
# "<" begins a marker, and is in no literal.
_NEXT = re.compile(r"""[()\[\]{}'"<]""")
_IN_QUOTES = re.compile(r"""\\.|['"]""", re.DOTALL)


def python_call(source: Source, functions: Functions) -> Reading[None]:
    """A call with its brackets, as a whole. Raises NoCall: it is none; nothing was yielded."""
    text = yield from _bracketed(source)
    name, arguments = _parsed(text)
    if name not in functions:
        raise NoCall
    source.commit()
    yield Called(name)
    yield Argued(arguments)


def python_list(source: Source, functions: Functions) -> Reading[None]:
    """Calls behind the bracket of their list. Raises NoCall: the first is none."""
    yield from python_call(source, functions)
    while (yield from perhaps(source, _next_of_list(source, functions))):
        pass


def _next_of_list(source: Source, functions: Functions) -> Reading[bool]:
    yield from source.blank()
    following = yield from source.accept(",", "]")
    if not following:
        raise NoCall
    if following == ",":
        yield from python_call(source, functions)
    return following == ","


class OlmoCalls(Calls):
    """OLMo 3's."""

    markers = ("<function_calls>", "</function_calls>")

    def read(self, source: Source) -> Reading[None]:
        """See ``Calls``."""
        start, _ = self.markers
        # The template of OLMo 3 Think has no place for tools; see ``SectionCalls``.
        yield from bare_calls(source, self.functions)
        while (yield from source.pieces(Said, start)):
            yield from attempt(source, start, self._calls(source))

    def _calls(self, source: Source) -> Reading[None]:
        yield from python_call(source, self.functions)
        while (yield from perhaps(source, self._next(source))):
            pass

    def _next(self, source: Source) -> Reading[bool]:
        yield from source.blank()
        if (yield from source.close(self.markers[1])):
            return False
        yield from python_call(source, self.functions)
        return True


def _bracketed(source: Source) -> Reading[str]:
    """The text of a call up to its closing bracket. Raises NoCall: it does not begin as one."""
    while _NAME.match(source.rest) is None:
        begun = _BEGUN.match(source.rest)
        assert begun is not None, "the pattern matches the empty string"
        if begun.end() < len(source.rest) or not (yield from source.more()):
            raise NoCall
    depth, quote, at = 0, "", 0
    while True:
        rest = source.rest
        while found := (_IN_QUOTES if quote else _NEXT).search(rest, at):
            at, mark = found.end(), found[0]
            if quote:
                quote = "" if mark == quote else quote
            elif mark in "'\"":
                quote = mark
            elif mark == "<":
                raise NoCall
            else:
                depth += 1 if mark in "([{" else -1
                if depth == 0:
                    return source.take(at)
        # A backslash at the end escapes the next character.
        at = len(rest) - (bool(quote) and rest.endswith("\\", at))
        if not (yield from source.more()):
            raise NoCall


def _parsed(text: str) -> tuple[str, str]:
    """Name and arguments in JSON. Raises NoCall: it is no call with literals by their names."""
    name, bracket, arguments = text.partition("(")
    try:
        call = ast.parse(f"f{bracket}{arguments}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise NoCall
        found = {one.arg: value_of(one.value) for one in call.keywords if one.arg is not None}
        if len(found) < len(call.keywords):
            raise NoCall
        return name.strip(), written(found)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NoCall from None
