"""A JSON schema as a document: its subschemas by path, its references and its keywords."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any
from urllib.parse import unquote

from jsonschema import validators

from atoll import json_text
from atoll.errors import ValidationError
from atoll.sampling.schema.conditions import Path, rewritten
from atoll.sampling.schema.keywords import ANNOTATIONS, CONDITIONS, KEPT
from atoll.sampling.schema.negation import is_kept_not

_LISTED_ITEMS = (
    validators.Draft3Validator, validators.Draft4Validator, validators.Draft6Validator,
    validators.Draft7Validator, validators.Draft201909Validator,
)  # fmt: skip


class Document:
    """A schema that is valid in its draft.

    Raises:
        ValidationError: it is invalid; says where.
    """

    def __init__(self, root: Any) -> None:
        if not isinstance(root, (dict, bool)):
            raise ValidationError(f"the json_schema is {root!r:.80}; expected an object")
        self.root: Any = root
        kind = self._draft()
        self.has_listed_items = kind in _LISTED_ITEMS
        self._validator = kind(root, format_checker=kind.FORMAT_CHECKER)
        self._covered: frozenset[tuple[Path, str]] = frozenset()
        # Which properties and items are evaluated depends on the keywords as they are.
        if not any("unevaluated" in name for _, found in _objects(root, ()) for name in found):
            self.root, self._covered = rewritten(root, kind.VALIDATORS)

    @classmethod
    def read(cls, source: str) -> Document:
        """From JSON text. Raises ValidationError: invalid JSON, or a duplicate key."""
        try:
            root = json_text.loads(source, _number)
            json.dumps(root, ensure_ascii=False).encode()  # a lone surrogate
            return cls(root)
        except RecursionError:
            raise ValidationError("the json_schema is not valid: it is nested too deeply") from None
        except ValueError as error:
            raise ValidationError(f"the json_schema is not valid JSON: {error}") from None

    def _draft(self) -> Any:
        named = self._top.get("$schema")
        if named is not None:
            candidates: list[Any] = [_validator_of(named, ())]
        else:
            candidates = [validators.Draft202012Validator, validators.Draft7Validator]
        errors = [
            next(iter(kind(_meta_schema(kind)).iter_errors(self.root)), None) for kind in candidates
        ]
        for kind, error in zip(candidates, errors, strict=True):
            if error is None:
                return kind
        first: Any = errors[0]
        message = first.message if len(first.message) < 200 else f"{first.message[:200]}..."
        raise ValidationError(f"the json_schema is not valid: {shown(first.path)}: {message}")

    def at(self, path: Path) -> Any:
        """The subschema, or other value, at a path."""
        found = self.root
        for step in path:
            found = found[step]
        return found

    def holds(self, value: Any, path: Path) -> bool:
        """Whether a value fits a subschema with all of its keywords."""
        try:
            return next(iter(self._validator.descend(value, self.at(path))), None) is None
        except Exception as error:  # an invalid pattern, a dangling reference
            raise refusal(path, "the schema", f"cannot be checked: {error}") from None

    def keywords(self, path: Path) -> dict[str, Any]:
        """The keywords of a subschema that restrict values; False as ``{"enum": []}``.

        Raises:
            ValidationError: one that is not supported.
        """
        found = self.at(path)
        if isinstance(found, bool):
            return {} if found else {"enum": []}
        if not isinstance(found, dict):
            raise refusal(path, repr(found)[:80], "is no schema")
        for name, value in found.items():
            self._check(path, name, value)
        return {
            name: value
            for name, value in found.items()
            if (name in KEPT or (name == "not" and is_kept_not(value)))
            and (path, name) not in self._covered
        }

    def _check(self, path: Path, name: str, value: Any) -> None:
        if (path, name) in self._covered:
            return
        if name in ANNOTATIONS:
            if name == "$id" and path and isinstance(value, str) and value[:1] != "#":
                raise refusal(path, name, "inside a schema is not supported")
            if name == "$schema":
                _validator_of(value, (*path, name))
        elif name in CONDITIONS:
            is_kept = name == "not" and is_kept_not(value)
            if not (is_kept or self._is_tried(path, name) or self._always_fits(path, name, value)):
                raise refusal(path, name, "is not supported")
        elif name not in KEPT and not name.startswith("x-"):
            raise refusal(path, name, "is not supported")
        elif name == "prefixItems" and self.has_listed_items and "$schema" in self._top:
            raise refusal(path, name, f"is not of the draft {self._top['$schema']!r}")
        elif name == "additionalItems" and not self.has_listed_items:
            raise refusal(path, name, "is not of this draft: use prefixItems and items")

    @property
    def _top(self) -> dict[str, Any]:
        return self.root if isinstance(self.root, dict) else {}

    def _is_tried(self, path: Path, name: str) -> bool:
        """Whether values are listed and the draft's validator knows the keyword."""
        needed = "if" if name in ("then", "else") else name
        found = self.at(path)
        is_known = needed in self._validator.VALIDATORS and needed in found
        return is_known and ("enum" in found or "const" in found)

    def _always_fits(self, path: Path, name: str, value: Any) -> bool:
        """Whether every value that fits the rest of the subschema certainly fits the keyword."""
        found = self.at(path)
        if name == "not":
            return value is False
        if name in ("dependentRequired", "dependencies"):
            required = set(found.get("required", ()))
            return all(isinstance(v, list) and required.issuperset(v) for v in value.values())
        return name == "dependentSchemas" and not any(part is not True for part in value.values())

    def resolve(self, path: Path, reference: str) -> Path:
        """The path that a ``$ref`` leads to. Raises ValidationError: not in this document."""
        own = self._top.get("$id") or ""
        if isinstance(own, str) and own:
            reference = reference.removeprefix(own.split("#")[0]) or "#"
        base, _, fragment = reference.partition("#")
        named = f"$ref {reference!r}"
        if base:
            raise refusal((*path, "$ref"), named, "is not supported: it is in another document")
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            if fragment not in self._anchors:
                raise refusal((*path, "$ref"), named, "leads nowhere")
            return self._anchors[fragment]
        found: Any = self.root
        steps: list[str | int] = []
        for part in fragment.split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            step: str | int = int(part) if isinstance(found, list) and part.isdecimal() else part
            try:
                found = found[step]
            except (KeyError, IndexError, TypeError):
                raise refusal((*path, "$ref"), named, "leads nowhere") from None
            steps.append(step)
        return tuple(steps)

    @cached_property
    def _anchors(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path, schema in _objects(self.root, ()):
            anchor, own = schema.get("$anchor"), schema.get("$id")
            if isinstance(anchor, str):
                found[anchor] = path
            if isinstance(own, str) and own.startswith("#"):
                found[own[1:]] = path
        return found


def _meta_schema(kind: Any) -> Any:
    """What a schema of a draft has to be, under ``$defs`` too, which older drafts do not know."""
    meta = kind.META_SCHEMA
    properties = meta["properties"]
    # Newer ones are made of vocabularies, and Draft 3 has no definitions either.
    if "$vocabulary" in meta or "definitions" not in properties:
        return meta
    own = {name: value for name, value in meta.items() if name not in ("$id", "id")}
    return {**own, "properties": {**properties, "$defs": properties["definitions"]}}


def _validator_of(draft: Any, path: Path) -> Any:
    """The validator of the draft in ``$schema``. Raises ValidationError: an unknown draft."""
    found: Any = validators.validator_for(
        {"$schema": draft} if isinstance(draft, str) else {}, default=validators.Draft3Validator
    )
    if found in (validators.Draft3Validator, validators.Draft4Validator):
        raise refusal(path, f"$schema {draft!r}", "is not supported")
    return found


def refusal(path: Path, what: str, why: str) -> ValidationError:
    """An error that says where the schema has something unsupported; ``what``: a keyword."""
    if re.match(r"\$?[A-Za-z]\w*$", what) and path[-1:] != (what,):
        path = (*path, what)
    return ValidationError(f"the json_schema is not valid: {shown(path)}: {what} {why}")


def shown(path: Any) -> str:
    """A path as a JSON pointer."""
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in path)
    return "#" + "".join(f"/{step}" for step in steps)


def _objects(value: Any, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    if isinstance(value, dict):
        yield path, value
        for name, part in value.items():
            yield from _objects(part, (*path, name))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _objects(part, (*path, index))


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no number that can be written")
    return value
