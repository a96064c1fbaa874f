"""Objects: declared properties in order, other properties, and limits on their number."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from atoll.sampling.schema.branches import Branch, Branches, Paths
from atoll.sampling.schema.document import Document, refusal
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
from atoll.sampling.schema.undeclared import COLON, Undeclared, property_paths

# An object with a limited number of properties needs a rule for each property and count.
_MAX_COUNTED = 10_000
_COMMA = Text(", ")


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
        self._undeclared = Undeclared(document, branches, value, rules)
        self._num_objects = 0

    def expression(self, branch: Branch) -> Expression:
        """An object that fits. Raises ValidationError: something is not supported."""
        least, most = branch.most("minProperties") or 0, branch.least("maxProperties")
        required, absent = branch.required, branch.absent
        declared = dict.fromkeys(n for _, named in branch.values("properties") for n in named)
        names = list(declared | required)
        names += [name for name in self._listed_names(branch) if name not in names]
        names = [name for name in names if name not in absent]
        if required.keys() & absent:
            return NOTHING
        if most is not None and (most < least or most < len(required)):
            return NOTHING
        pairs = []
        for name in names:
            if all(self._document.holds(name, path) for path in branch.paths("propertyNames")):
                value = self._value(property_paths(branch, name))
                pair = concatenation(Text(json.dumps(name, ensure_ascii=False)), COLON, value)
                pairs.append(_Pair(pair, name in required))
            elif name in required:
                return NOTHING
        free = self._undeclared.property(branch, names, least)
        return self._ordered(pairs, free, least, most, branch)

    def _listed_names(self, branch: Branch) -> list[str]:
        """Names that ``propertyNames`` lists, which are then treated as declared properties."""
        found = tuple(branch.paths("propertyNames"))
        options = self._branches.of(found) if found else []
        if not options or any(option.literals is None for option in options):
            return []
        values = [value for option in options for (value,) in option.literals or ()]
        return [value for value in values if isinstance(value, str)]

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
