"""Objects: declared properties in order, other properties, and limits on their number."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from atoll.sampling.schema import patterns
from atoll.sampling.schema.branches import Branch, Branches, Paths
from atoll.sampling.schema.document import Document, Path, refusal
from atoll.sampling.schema.expressions import (
    EMPTY,
    NOTHING,
    Expression,
    Rule,
    Text,
    choice,
    concatenation,
    repeated,
)
from atoll.sampling.schema.spelling import json_character, json_string, other_than
from atoll.sampling.schema.strings import string_within

# An object with a limited number of properties needs a rule for each property and count.
_MAX_COUNTED = 10_000
_COLON, _COMMA = Text(": "), Text(", ")


@dataclass(frozen=True)
class _Pair:
    """A property: its name and value, and whether it must be there."""

    expression: Expression
    is_required: bool


class Objects:
    """Builds the expressions of branches; ``value`` returns the rule of a set of subschemas."""

    def __init__(
        self,
        document: Document,
        branches: Branches,
        value: Callable[[Paths], Expression],
        rules: dict[str, Expression],
    ) -> None:
        self._document, self._branches, self._value, self._rules = document, branches, value, rules
        self._num_objects = 0

    def expression(self, branch: Branch) -> Expression:
        """An object that fits. Raises ValidationError: something is not supported."""
        least, most = branch.most("minProperties") or 0, branch.least("maxProperties")
        required = dict.fromkeys(n for _, names in branch.values("required") for n in names)
        declared = dict.fromkeys(n for _, named in branch.values("properties") for n in named)
        names = list(declared | required)
        names += [name for name in self._listed_names(branch) if name not in names]
        if most is not None and (most < least or most < len(required)):
            return NOTHING
        pairs = []
        for name in names:
            if all(self._document.holds(name, path) for path in branch.paths("propertyNames")):
                value = self._value(self._property(branch, name))
                pair = concatenation(Text(json.dumps(name, ensure_ascii=False)), _COLON, value)
                pairs.append(_Pair(pair, name in required))
            elif name in required:
                return NOTHING
        return self._ordered(pairs, self._free(branch, names, least), least, most, branch)

    def _listed_names(self, branch: Branch) -> list[str]:
        """Names that ``propertyNames`` lists, which are then treated as declared properties."""
        found = tuple(branch.paths("propertyNames"))
        options = self._branches.of(found) if found else []
        if not options or any(option.literals is None for option in options):
            return []
        values = [value for option in options for (value,) in option.literals or ()]
        return [value for value in values if isinstance(value, str)]

    def _property(self, branch: Branch, name: str) -> Paths:
        """The subschemas that the property of a name has to fit."""
        found: list[Path] = []
        is_evaluated = False
        for part in branch.parts:
            own: list[Path] = []
            if name in part.keywords.get("properties", ()):
                own.append((*part.path, "properties", name))
            for pattern in part.keywords.get("patternProperties", ()):
                if self._matches(part.path, pattern, name):
                    own.append((*part.path, "patternProperties", pattern))
            if not own and "additionalProperties" in part.keywords:
                own.append((*part.path, "additionalProperties"))
            found += own
            is_evaluated = is_evaluated or bool(own)
        if not is_evaluated:
            found += branch.unevaluated("unevaluatedProperties")
        return tuple(dict.fromkeys(found))

    def _matches(self, path: Path, pattern: str, name: str) -> bool:
        try:
            patterns.parse(pattern)
            return re.search(pattern, name) is not None
        except (patterns.PatternError, re.error) as error:
            raise refusal((*path, "patternProperties"), repr(pattern)[:200], str(error)) from None

    def _free(self, branch: Branch, names: list[str], least: int) -> Expression:
        """A property with any other name; NOTHING if none is allowed."""
        by_pattern = [
            (path, pattern)
            for path, found in branch.values("patternProperties")
            for pattern in found
        ]
        rest = branch.paths("additionalProperties") or branch.unevaluated("unevaluatedProperties")
        is_listed = bool(names or branch.values("properties"))
        is_open = all(self._document.at(path) is not False for path in rest)
        if by_pattern:
            return self._by_pattern(branch, by_pattern, names, is_open=bool(rest) and is_open)
        if not is_open or (not rest and is_listed and least <= len(names)):
            return NOTHING
        limits = tuple(branch.paths("propertyNames"))
        value = self._value(tuple(dict.fromkeys(rest)))
        if not limits:
            key = json_string(other_than(frozenset(names), json_character))
            return concatenation(key, _COLON, value)
        options = [option for option in self._branches.of(limits) if "string" in option.kinds]
        if all(option.literals is not None for option in options):
            return NOTHING  # they are among the names
        if any(option.literals is not None for option in options):
            raise refusal(limits[0], "propertyNames", "that lists names beside others")
        if any(self._document.holds(name, limit) for limit in limits for name in names):
            raise refusal(limits[0], "propertyNames", "that fits declared names is not supported")
        key = choice(json_string(string_within(option, self._rules)) for option in options)
        return concatenation(key, _COLON, value)

    def _by_pattern(
        self, branch: Branch, by_pattern: list[tuple[Path, str]], names: list[str], *, is_open: bool
    ) -> Expression:
        """Properties whose names match a pattern."""
        first = by_pattern[0][0]
        if is_open:
            reason = "beside additionalProperties that is not false is not supported"
            raise refusal(first, "patternProperties", reason)
        if branch.values("propertyNames"):
            raise refusal(first, "patternProperties", "beside propertyNames is not supported")
        found: dict[str, list[Path]] = {}
        for path, pattern in by_pattern:
            found.setdefault(pattern, []).append((*path, "patternProperties", pattern))
            matched = next((name for name in names if self._matches(path, pattern, name)), None)
            if matched is not None:
                reason = f"{pattern!r} matches the property {matched!r}, which is not supported"
                raise refusal(path, "patternProperties", reason)
        try:
            self._check_apart(first, list(found))
            parts = []
            for pattern, paths in found.items():
                # A schema without this pattern may forbid names that it does not declare.
                paths = paths + [
                    (*part.path, "additionalProperties")
                    for part in branch.parts
                    if pattern not in part.keywords.get("patternProperties", ())
                    and "additionalProperties" in part.keywords
                ]
                key = json_string(patterns.search(pattern, json_character))
                parts.append(concatenation(key, _COLON, self._value(tuple(paths))))
            return choice(parts)
        except patterns.PatternError as error:
            raise refusal(first, "patternProperties", str(error)) from None

    def _check_apart(self, path: Path, found: list[str]) -> None:
        """Raises ValidationError: a name could match two patterns."""
        for one, other in itertools.combinations(map(patterns.prefix, found), 2):
            if one.startswith(other) or other.startswith(one):
                reason = f"{found!r:.200} may match one name, which is not supported"
                raise refusal(path, "patternProperties", reason)

    def _ordered(
        self, pairs: list[_Pair], free: Expression, least: int, most: int | None, branch: Branch
    ) -> Expression:
        """Rules by property and by the number of properties before it, capped where possible."""
        num_required = sum(pair.is_required for pair in pairs)
        least = least if least > num_required else 0
        if most is not None and free == NOTHING and most >= len(pairs):
            most = None
        cap = min(max(least, most or 0, 1), max(len(pairs), 1))
        if (cap + 1) * (len(pairs) + 1) > _MAX_COUNTED:
            reason = f"among {len(pairs)} properties are not supported"
            raise refusal(branch.parts[0].path, "minProperties and maxProperties", reason)
        if free != NOTHING and least > len(pairs) + 1:
            reason = "cannot be kept: free names could come twice"
            raise refusal(branch.parts[0].path, f"minProperties {least}", reason)
        self._num_objects += 1
        prefix, rules = f"object-{self._num_objects}", self._rules

        def at(index: int, count: int) -> Expression:
            return Rule(f"{prefix}-{index}-{min(count, cap)}")

        for index in range(len(pairs) + 1):
            for count in range(cap + 1):
                comma = _COMMA if count else EMPTY
                if index == len(pairs):
                    name = f"{prefix}-{index}-{count}"
                    rules[name] = _rest(free, comma, count, least, most, cap)
                    continue
                pair, parts = pairs[index], []
                if most is None or count < most:
                    parts.append(concatenation(comma, pair.expression, at(index + 1, count + 1)))
                if not pair.is_required:
                    parts.append(at(index + 1, count))
                rules[f"{prefix}-{index}-{count}"] = choice(parts)
        return concatenation(Text("{"), at(0, 0), Text("}"))


def _rest(
    free: Expression, comma: Expression, count: int, least: int, most: int | None, cap: int
) -> Expression:
    """Undeclared properties after ``count`` others; one is required if ``least`` is not reached."""
    missing = least - count
    if missing > 0 and free == NOTHING:
        return NOTHING
    room = None if most is None else most - count
    if free == NOTHING or (room is not None and room <= 0):
        return EMPTY if missing <= 0 else NOTHING
    if missing > 1:
        return NOTHING  # an undeclared name may occur twice, and counts once
    more = concatenation(
        free, repeated(concatenation(_COMMA, free), 0, None if room is None else room - 1)
    )
    found = concatenation(comma, more)
    return found if missing == 1 else repeated(found, 0, 1)
