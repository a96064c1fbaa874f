"""Expands subschemas that must hold together into alternatives without references.

A *set* is a set of paths whose subschemas must all hold. It is expanded by following ``$ref`` and
``allOf`` and by choosing from each ``anyOf`` and ``oneOf``: a *branch* is one such choice. So no
keyword gets lost next to another one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

from atoll.sampling.schema.conditions import Path
from atoll.sampling.schema.document import Document, refusal

# Each once, in the order in which the schema comes to them.
Paths = tuple[Path, ...]

_KINDS = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_MAX_BRANCHES = 512
_MAX_DEPTH = 4
_MAX_NESTED = 64


@dataclass(frozen=True)
class Part:
    """The keywords of one subschema of a branch."""

    path: Path
    keywords: dict[str, Any]


@dataclass(frozen=True)
class Branch:
    """Subschemas that must all hold, and what follows from them directly.

    kinds: types that fit. literals: the only values that fit, as (value,) each; None: any others.
    is_whole: all parts come from one subschema.
    """

    parts: tuple[Part, ...]
    kinds: frozenset[str]
    literals: tuple[Any, ...] | None
    is_whole: bool

    def values(self, keyword: str) -> list[tuple[Path, Any]]:
        """A keyword's values, with their paths."""
        return [(p.path, p.keywords[keyword]) for p in self.parts if keyword in p.keywords]

    def paths(self, keyword: str) -> list[Path]:
        """The paths of a keyword's subschemas."""
        return [(*path, keyword) for path, _ in self.values(keyword)]

    @property
    def required(self) -> dict[str, None]:
        """The names of properties that must be there, in order."""
        return dict.fromkeys(name for _, names in self.values("required") for name in names)

    @property
    def absent(self) -> frozenset[str]:
        """The names of properties that must not be there."""
        kept = (found.get("required", ()) for _, found in self.values("not"))
        return frozenset(name for names in kept for name in names)

    def unevaluated(self, keyword: str) -> list[Path]:
        """The same for ``unevaluatedItems`` and ``unevaluatedProperties``.

        Raises:
            ValidationError: its part does not include all others, so that more may be evaluated.
        """
        for index, part in enumerate(self.parts):
            others = [other.keywords.keys() - {"$ref"} for other in self.parts[:index]]
            if keyword in part.keywords and (any(others) or not self.is_whole):
                raise refusal(part.path, keyword, "beside other schemas is not supported")
        return self.paths(keyword)

    def least(self, keyword: str) -> int | None:
        """The smallest of a keyword's values."""
        return min((int(value) for _, value in self.values(keyword)), default=None)

    def most(self, keyword: str) -> int | None:
        """The largest of a keyword's values."""
        return max((int(value) for _, value in self.values(keyword)), default=None)


ANYTHING = Branch((), _KINDS, None, False)


class Branches:
    """The branches of sets of paths, each expanded once."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._found: dict[Paths, list[Branch]] = {}
        self._exclusive: set[Path] = set()

    def of(self, paths: Paths) -> list[Branch]:
        """The branches that are not empty. Raises ValidationError: an unsupported keyword."""
        if paths not in self._found:
            chosen: list[Paths] = [()]
            for path in paths:
                chosen = self._combined(path, chosen, self._expanded(path, ()))
            made = (self._branch(found, len(paths) == 1) for found in dict.fromkeys(chosen))
            self._found[paths] = [branch for branch in made if branch is not None]
        return self._found[paths]

    def listed(self, paths: Paths) -> tuple[Any, ...] | None:
        """The only values that fit a set, if ``enum``, ``const`` and types list them."""
        branches = self.of(paths) if paths else [ANYTHING]
        found: list[Any] = []
        for branch in branches:
            if branch.literals is not None:
                found += [value for (value,) in branch.literals]
            elif branch.kinds <= {"null", "boolean"}:
                found += [None] * ("null" in branch.kinds)
                found += [True, False] * ("boolean" in branch.kinds)
            else:
                return None
        return tuple(found)

    def _combined(self, path: Path, some: list[Paths], others: list[Paths]) -> list[Paths]:
        if len(some) * len(others) > _MAX_BRANCHES:
            raise refusal(path, "the schema", f"has more than {_MAX_BRANCHES} combinations")
        return [tuple(dict.fromkeys(one + other)) for one, other in itertools.product(some, others)]

    def _expanded(self, path: Path, seen: tuple[Path, ...]) -> list[Paths]:
        """The sets of subschemas that a subschema consists of, one set for each choice."""
        if path in seen:
            raise refusal(path, "the schema", "refers to itself")
        if len(seen) > _MAX_NESTED:
            raise refusal(path, "the schema", "is nested too deeply")
        seen = (*seen, path)
        keywords = self._document.keywords(path)
        options: list[Paths] = [(path,)]
        inner: list[list[Paths]] = []
        if "$ref" in keywords:
            target = self._document.resolve(path, keywords["$ref"])
            inner.append(self._expanded(target, seen))
        for index in range(len(keywords.get("allOf", ()))):
            inner.append(self._expanded((*path, "allOf", index), seen))
        for name in ("anyOf", "oneOf"):
            if name in keywords:
                inner.append(
                    [
                        found
                        for index in range(len(keywords[name]))
                        for found in self._expanded((*path, name, index), seen)
                    ]
                )
        if len(keywords.get("oneOf", ())) > 1:
            self._check_exclusive(path, len(keywords["oneOf"]))
        for found in inner:
            options = self._combined(path, options, found)
        return options

    def _check_exclusive(self, path: Path, count: int) -> None:
        """Of ``oneOf``, exactly one may fit: they must differ by type, value or a property."""
        if path in self._exclusive:
            return
        self._exclusive.add(path)
        options = [self._beside(path, index) for index in range(count)]
        for (i, one), (j, other) in itertools.combinations(enumerate(options), 2):
            pairs = itertools.product(one, other)
            if not all(self._apart(a, b, _MAX_DEPTH, path) for a, b in pairs):
                reason = f"may fit its alternatives {i} and {j} at once; anyOf allows that"
                raise refusal(path, "oneOf", reason)

    def _beside(self, path: Path, index: int) -> list[Branch]:
        """The branches of an alternative of ``oneOf``, with the properties beside it."""
        keywords = self._document.keywords(path)
        names = {"properties", "required"}
        beside = {name: value for name, value in keywords.items() if name in names}
        kinds = _kinds(keywords.get("type"))
        return [
            replace(found, parts=(Part(path, beside), *found.parts), kinds=found.kinds & kinds)
            for found in self.of(((*path, "oneOf", index),))
            if found.kinds & kinds
        ]

    def _are_apart(self, one: Paths, other: Paths, depth: int) -> bool:
        """Whether it is certain that no value fits both."""
        pairs = itertools.product(self.of(one), self.of(other))
        return all(self._apart(a, b, depth) for a, b in pairs)

    def _apart(self, one: Branch, other: Branch, depth: int, beside: Path | None = None) -> bool:
        """The same of branches. beside: the schema that has both, and more that has to hold."""
        for a, b in ((one, other), (other, one)):
            if a.literals is not None:
                parts = [part for part in b.parts if part.path != beside]
                return not any(
                    all(self._document.holds(value, part.path) for part in parts)
                    for (value,) in a.literals
                )
        common = one.kinds & other.kinds
        if not common:
            return True
        if common != {"object"} or depth == 0:
            return False
        if one.absent & other.required.keys() or other.absent & one.required.keys():
            return True
        return any(
            (first := _of_property(one, name)) and (second := _of_property(other, name))
            and self._are_apart(first, second, depth - 1)
            for name in sorted(one.required.keys() & other.required.keys())
        )  # fmt: skip

    def _branch(self, paths: Paths, is_whole: bool) -> Branch | None:
        parts = tuple(Part(path, self._document.keywords(path)) for path in paths)
        kinds = _KINDS
        for part in parts:
            kinds &= _kinds(part.keywords.get("type")) & _refuted(part.keywords.get("not", {}))
        literals = self._literals(parts)
        if literals == () or not kinds:
            return None
        return Branch(parts, kinds, literals, is_whole)

    def _literals(self, parts: tuple[Part, ...]) -> tuple[Any, ...] | None:
        for part in parts:
            listed = part.keywords.get("enum")
            if "const" in part.keywords:
                listed = [part.keywords["const"]]
            if listed is not None:
                return tuple(
                    (value,)
                    for value in listed
                    if all(self._document.holds(value, other.path) for other in parts)
                )
        return None


def _of_property(branch: Branch, name: str) -> Paths:
    return tuple(
        (*path, "properties", name) for path, named in branch.values("properties") if name in named
    )


def _refuted(schema: dict[str, Any]) -> frozenset[str]:
    """The types whose values may fail to fit a schema that ``not`` keeps."""
    kinds = {"required": "object", "pattern": "string"}
    return frozenset(kinds[name] for name in schema if name in kinds) or _KINDS


def _kinds(value: Any) -> frozenset[str]:
    """The types that ``type`` allows; a number may be whole."""
    if value is None:
        return _KINDS
    found = {value} if isinstance(value, str) else set(value)
    return frozenset(found | ({"integer"} if "number" in found else set()))
