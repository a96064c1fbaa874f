"""Embeds a JSON schema in another one, with its references adapted."""

from __future__ import annotations

from typing import Any

# Keywords whose values are data, and those whose values are schemas by name.
_DATA = frozenset({"const", "enum", "default", "example", "examples"})
_BY_NAME = frozenset(
    {"$defs", "definitions", "properties", "patternProperties", "dependentSchemas", "dependencies"}
)


def moved(schema: Any, place: str) -> Any:
    """``schema``, adapted for ``place``, a JSON pointer such as ``#/$defs/0``.

    References relative to its root or its ``$id`` become relative to ``place``. Anchors are
    renamed, since two schemas may use the same name.
    """
    own = schema.get("$id") if isinstance(schema, dict) else None
    if not isinstance(own, str) or own.startswith("#"):
        return _Move(place, "").of(schema)
    return _Move(place, own.split("#")[0]).of({k: v for k, v in schema.items() if k != "$id"})


class _Move:
    """Adapts a schema whose ``$id`` is ``base`` for ``place``."""

    def __init__(self, place: str, base: str) -> None:
        self._place, self._base = place, base
        self._prefix = "_" + "".join(c if c.isalnum() else "." for c in place[1:])

    def of(self, schema: Any) -> Any:
        if isinstance(schema, list):
            return [self.of(part) for part in schema]
        if not isinstance(schema, dict):
            return schema
        return {name: self._member(name, value) for name, value in schema.items()}

    def _member(self, name: str, value: Any) -> Any:
        if name in _DATA:
            return value
        if name in _BY_NAME and isinstance(value, dict):
            return {key: self.of(part) for key, part in value.items()}
        if not isinstance(value, str):
            return self.of(value)
        if name == "$ref":
            return self._reference(value)
        if name == "$anchor":
            return self._anchor(value)
        # Anchors in drafts 6 and 7.
        is_anchor = name == "$id" and value.startswith("#")
        return f"#{self._anchor(value[1:])}" if is_anchor else value

    def _reference(self, value: str) -> str:
        base, mark, fragment = value.partition("#")
        if base != self._base and base:
            return value
        if not fragment or fragment.startswith("/"):
            return self._place + fragment
        return f"#{self._anchor(fragment)}"

    def _anchor(self, name: str) -> str:
        return f"{self._prefix}.{name}"
