"""Rewrites conditions into keywords that grammars are built from, which say the same.

``not``, ``if`` with ``then`` and ``else``, the ``dependent`` ones, and ``oneOf`` of required
properties become members of ``allOf``. They stay where they are, so that references to them, and
what is refused in them, have their place.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from atoll.sampling.schema.keywords import ANNOTATIONS, BY_NAME, LISTS, ONE
from atoll.sampling.schema.negation import NotNegatable, all_but, any_of, is_kept_not, negated

Path = tuple[str | int, ...]


def rewritten(root: Any, known: Container[str]) -> tuple[Any, frozenset[tuple[Path, str]]]:
    """A schema with the same values, and the keywords that it no longer needs, by path.

    What cannot be rewritten stays. known: the keywords of the schema's draft.
    """
    covered: set[tuple[Path, str]] = set()
    found = _Rewriting(known, covered).of(root, ())
    return found, frozenset(covered)


class _Rewriting:
    def __init__(self, known: Container[str], covered: set[tuple[Path, str]]) -> None:
        self._known, self._covered = known, covered

    def of(self, schema: Any, path: Path) -> Any:
        """A subschema, with those inside it."""
        if not isinstance(schema, dict):
            return schema
        found = {name: self._member(name, value, (*path, name)) for name, value in schema.items()}
        if "enum" in schema or "const" in schema:
            return found  # whose values are checked one by one
        added = []
        for names, condition in _conditions(schema, path):
            if names[0] in self._known:
                added.append(condition)
                self._covered.update((path, name) for name in names)
        return {**found, "allOf": [*found.get("allOf", ()), *added]} if added else found

    def _member(self, name: str, value: Any, path: Path) -> Any:
        if name in LISTS and isinstance(value, list):
            return [self.of(part, (*path, index)) for index, part in enumerate(value)]
        if name in BY_NAME and isinstance(value, dict):
            return {key: self.of(part, (*path, key)) for key, part in value.items()}
        return self.of(value, path) if name in ONE else value


def _conditions(schema: dict[str, Any], path: Path) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The keywords that can be rewritten, and what they become."""
    if "not" in schema and not is_kept_not(schema["not"]):
        with suppress(NotNegatable):
            yield ("not",), negated(schema["not"])
    branches = tuple(name for name in ("then", "else") if name in schema)
    if "if" in schema and branches:
        with suppress(NotNegatable):
            yield ("if", *branches), _if(schema, path)
    for name in ("dependentRequired", "dependentSchemas", "dependencies"):
        if name in schema:
            yield (name,), _dependent(schema, path, name)
    if len(schema.get("oneOf", ())) > 1 and all(map(_is_required, schema["oneOf"])):
        yield ("oneOf",), _one_of(schema["oneOf"])


def _if(schema: dict[str, Any], path: Path) -> Any:
    """Raises NotNegatable."""
    holds, fails = [_reference((*path, "if"))], [negated(schema["if"])]
    if "then" in schema:
        holds.append(_reference((*path, "then")))
    if "else" in schema:
        fails.append(_reference((*path, "else")))
    return {"anyOf": [{"allOf": holds}, {"allOf": fails}]}


def _dependent(schema: dict[str, Any], path: Path, keyword: str) -> Any:
    """If there is a property, others have to be there, or a schema has to fit."""
    required = set(schema.get("required", ()))
    found = []
    for name, needed in schema[keyword].items():
        if needed is True or (isinstance(needed, list) and required.issuperset(needed)):
            continue
        then: list[Any] = [{"required": [name]}]
        if isinstance(needed, list):
            then.append({"required": needed})
        else:
            then.append(_reference((*path, keyword, name)))
        options = [{"not": {"required": [name]}}, {"type": "object", "allOf": then}]
        is_object = schema.get("type") == "object"
        found.append(any_of(options if is_object else [all_but("object"), *options]))
    return {"allOf": found} if found else True


def _is_required(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.keys() - ANNOTATIONS == {"required"}


def _one_of(schemas: list[Any]) -> Any:
    """One of them fits, and the others do not."""
    return any_of(
        {"allOf": [schema, *(negated(other) for j, other in enumerate(schemas) if j != i)]}
        for i, schema in enumerate(schemas)
    )


def _reference(path: Path) -> dict[str, str]:
    steps = (quote(str(step).replace("~", "~0").replace("/", "~1"), safe="") for step in path)
    return {"$ref": "#" + "".join(f"/{step}" for step in steps)}
