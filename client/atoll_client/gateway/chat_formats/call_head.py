"""Parses the beginning of a JSON object that may be a tool call, up to its arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

BLANK = re.compile(r"\s*")
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_ARGUMENTS = ("arguments", "parameters")
_MEMBERS = ("name", *_ARGUMENTS, "type", "id", "function")


@dataclass(frozen=True)
class Head:
    """The beginning of a call.

    at: the index of the arguments, or of the end of the object. arguments: None: not read yet.
    """

    name: str
    at: int
    arguments: str | None


class Unclear(Exception):
    """More text is needed for a decision."""


class NoCall(Exception):
    """The object is not a tool call."""


def read_head(text: str, names: Container[str], may_lack_arguments: bool) -> Head:
    """Parses an object up to its arguments, or all of it.

    Raises:
        Unclear: more text is needed. NoCall: it is not a tool call.
    """
    at = blank(text, 0)
    if text[at] != "{":
        raise NoCall
    members: dict[str, str] = {}
    at += 1
    while True:
        at = blank(text, at)
        if text[at] == "}":
            return _whole(members, names, at + 1, may_lack_arguments)
        if members:
            at = blank(text, _expect(text, at, ","))
        key, at = _text_at(text, at)
        is_arguments = key in _ARGUMENTS
        if key not in _MEMBERS or key in members or (is_arguments and _argued(members)):
            raise NoCall
        at = blank(text, _expect(text, blank(text, at), ":"))
        if is_arguments and text[at] == "{" and "name" in members:
            return Head(_known(members, names), at, None)
        if not is_arguments and text[at] != ("{" if key == "function" else '"'):
            raise NoCall
        end = _end_of_value(text, at)
        members[key], at = text[at:end], end
        if key == "name":
            _known(members, names)


def _whole(
    members: dict[str, str], names: Container[str], end: int, may_lack_arguments: bool
) -> Head:
    """The call of a complete object."""
    if "function" in members:
        if members.keys() & {"name", *_ARGUMENTS}:
            raise NoCall
        inner = read_head(members["function"], names, may_lack_arguments)
        if inner.arguments is None:
            return Head(inner.name, end, members["function"][inner.at : -1].rstrip())
        return Head(inner.name, end, inner.arguments)
    name = _known(members, names)
    found = _argued(members)
    if not found and not may_lack_arguments:
        raise NoCall
    return Head(name, end, _written(found[0]) if found else "{}")


def _argued(members: dict[str, str]) -> list[str]:
    """The values of the fields for arguments."""
    return [members[key] for key in _ARGUMENTS if key in members]


def _written(source: str) -> str:
    """The JSON text of the arguments, which may be an object or JSON in a string."""
    value = json.loads(source)
    if isinstance(value, str):
        return value
    if value is None:
        return "{}"
    if not isinstance(value, dict):
        raise NoCall
    return source


def _known(members: dict[str, str], names: Container[str]) -> str:
    if "name" not in members:
        raise NoCall
    name: Any = json.loads(members["name"])
    if name not in names:
        raise NoCall
    return str(name)


def _expect(text: str, at: int, what: str) -> int:
    if text[at] != what:
        raise NoCall
    return at + 1


def _text_at(text: str, at: int) -> tuple[str, int]:
    """The JSON string at an index, and the index of its end."""
    if text[at] != '"':
        raise NoCall
    found = _TEXT.match(text, at)
    if found is None:
        raise Unclear
    try:
        return str(json.loads(found[0])), found.end()
    except ValueError:
        raise NoCall from None


def _end_of_value(text: str, at: int) -> int:
    if text[at] == '"':
        return _text_at(text, at)[1]
    try:
        return json.JSONDecoder().raw_decode(text, at)[1]
    except ValueError:
        raise Unclear from None


def blank(text: str, at: int) -> int:
    """The index of the next character that is not white space. Raises Unclear: there is none."""
    found = BLANK.match(text, at)
    assert found is not None, "the pattern matches the empty string"
    if found.end() == len(text):
        raise Unclear
    return found.end()
