"""Arguments as JSON, from texts whose types only the tool's JSON schema tells."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

_UNIONS = ("anyOf", "oneOf", "allOf")
# Python's types of JSON values, by the names of schemas.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "array": (list,), "boolean": (bool,), "integer": (int,), "null": (type(None),),
    "number": (int, float), "object": (dict,), "string": (str,),
}  # fmt: skip
_MAX_DEPTH = 8
_HALVES = re.compile(r"[\ud800-\udfff]")
# JSON's words, which models write in Python's literals.
_CONSTANTS = {"true": True, "false": False, "null": None}


def complete(text: str) -> dict[str, Any]:
    """A call's arguments as an object; of those that were cut off, what is complete.

    If a model writes something else, it is the only member, under the name that Anthropic
    recommends for it.
    """
    try:
        found = from_json(text or "{}", allow_partial=True)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"INVALID_JSON": text}


class Arguments:
    """Writes an object, one parameter after the other. schema: its JSON schema, if there is one."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema if isinstance(schema, dict) else {}
        self._has_any = False

    def key(self, name: str) -> str:
        """What precedes a parameter's value."""
        start = ", " if self._has_any else "{"
        self._has_any = True
        return f"{start}{written(name)}: "

    @property
    def end(self) -> str:
        """The end of the object."""
        return "}" if self._has_any else "{}"

    def is_text(self, name: str) -> bool:
        """Whether a parameter is text whatever it says; one without a type is text, too."""
        return self._types(name) <= {"string"}

    def value(self, name: str, text: str) -> str:
        """A value that is written as text: JSON of one of the parameter's types, or a string."""
        types = self._types(name)
        kinds = [kind for one in types - {"string"} for kind in _TYPES.get(one, ())]
        for read in (parsed, literal):
            try:
                found = read(text.strip())
                # True is an int in Python. JSON schemas call 3.0 an integer.
                is_whole = isinstance(found, float) and found.is_integer() and "integer" in types
                if type(found) in kinds or is_whole:
                    return written(found)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
        return written(text)

    def _types(self, name: str) -> set[str]:
        properties = self._schema.get("properties")
        found = properties.get(name) if isinstance(properties, dict) else None
        return self._types_of(found, 0)

    def _types_of(self, schema: Any, depth: int) -> set[str]:
        if not isinstance(schema, dict) or depth > _MAX_DEPTH:
            return set()
        named = schema.get("type")
        if isinstance(named, str | list):
            return {named} if isinstance(named, str) else set(map(str, named))
        if "enum" in schema or "const" in schema:
            values = schema.get("enum", [schema.get("const")])
            listed = values if isinstance(values, list) else []
            return {n for n, kinds in _TYPES.items() if any(type(v) in kinds for v in listed)}
        if isinstance(schema.get("$ref"), str):
            return self._types_of(self._referred(schema["$ref"]), depth + 1)
        inner = [one for name in _UNIONS for one in schema.get(name) or ()]
        return {kind for one in inner for kind in self._types_of(one, depth + 1)}

    def _referred(self, reference: str) -> Any:
        found: Any = self._schema
        for part in reference.removeprefix("#/").split("/"):
            found = found.get(part) if isinstance(found, dict) else None
        return found


def written(value: Any) -> str:
    """A value as JSON, with other alphabets as they are. Raises ValueError: JSON lacks it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Halves of characters, which escapes may have named, have no UTF-8.
    return json.dumps(value) if _HALVES.search(text) else text


def escaped(text: str) -> str:
    """A piece of a JSON string."""
    return written(text)[1:-1]


def parsed(text: str) -> Any:
    """JSON. Raises ValueError: it is none, or has a number that JSON lacks."""
    return json.loads(text, parse_constant=_refuse)


def literal(text: str) -> Any:
    """A literal of Python, which may have JSON's constants, as a JSON value.

    Raises:
        ValueError, SyntaxError, RecursionError, MemoryError: it is none.
    """
    return value_of(ast.parse(text, mode="eval").body)


def value_of(node: ast.expr) -> Any:
    """The same of a parsed expression."""
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [value_of(one) for one in node.elts]
    if isinstance(node, ast.Dict):
        keys = [None if key is None else value_of(key) for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("a key that is no text")
        return dict(zip(keys, map(value_of, node.values), strict=True))
    value = ast.literal_eval(node)
    if not isinstance(value, str | int | float | bool | None):
        raise ValueError("a value that JSON lacks")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
