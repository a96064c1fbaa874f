"""Context-free grammars as data: built by the other modules here, and written as xgrammar's EBNF.

Expressions that nothing can match (a schema that is false, infinite recursion) are removed before
the grammar is written; it is an error if nothing else is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

# First and last code point, both included.
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Text:
    """These characters."""

    text: str


@dataclass(frozen=True)
class Characters:
    """One character of the ranges."""

    ranges: Ranges


@dataclass(frozen=True)
class Concatenation:
    """All parts, in order."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Choice:
    """One of the options; without options, nothing matches."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Repeated:
    """``least`` to ``most`` times; any number of times if ``most`` is None."""

    part: Expression
    least: int
    most: int | None


@dataclass(frozen=True)
class Rule:
    """What a rule of this name matches."""

    name: str


Expression: TypeAlias = "Text | Characters | Concatenation | Choice | Repeated | Rule"
_LAST = 0x10FFFF
# Longer than any answer; xgrammar's own limit.
_LONGEST = 2**31 - 2
EMPTY, NOTHING = Text(""), Choice(())


def concatenation(*parts: Expression) -> Expression:
    """All parts in order; nested concatenations are flattened."""
    flat: list[Expression] = []
    for part in parts:
        if part == NOTHING:
            return NOTHING
        flat += part.parts if isinstance(part, Concatenation) else [part]
    flat = [part for part in flat if part != EMPTY]
    return flat[0] if len(flat) == 1 else Concatenation(tuple(flat)) if flat else EMPTY


def choice(parts: Iterable[Expression]) -> Expression:
    """One of the options; nested choices are flattened, and duplicates removed."""
    flat: dict[Expression, None] = {}
    for part in parts:
        flat |= dict.fromkeys(part.parts if isinstance(part, Choice) else (part,))
    return next(iter(flat)) if len(flat) == 1 else Choice(tuple(flat))


def repeated(part: Expression, least: int = 0, most: int | None = None) -> Expression:
    """A ``Repeated``, simplified; NOTHING if ``most`` is below ``least``."""
    if least > _LONGEST or (most is not None and most < least):
        return NOTHING
    most = None if most is not None and most > _LONGEST else most
    if most == 0 or part == EMPTY:
        return EMPTY
    if part == NOTHING:
        return NOTHING if least else EMPTY
    if isinstance(part, Repeated) and (part.least, part.most) in ((0, 1), (0, None)):
        # (x?){2,5} is x{0,5}: nested counts are slow to follow.
        return repeated(part.part, 0, None if part.most is None else most)
    return part if least == most == 1 else Repeated(part, least, most)


def without_dead_ends(rules: Mapping[str, Expression]) -> dict[str, Expression]:
    """The rules that a finite text can match, without their parts that none can match."""
    alive: set[str] = set()
    num_before = -1
    while len(alive) > num_before:
        num_before = len(alive)
        # From the last to the first, since most rules lead to later ones.
        for name, rule in reversed(list(rules.items())):
            if name not in alive and _ends(rule, alive):
                alive.add(name)
    return {name: _pruned(rules[name], alive) for name in rules if name in alive}


def _ends(expression: Expression, alive: set[str]) -> bool:
    match expression:
        case Characters():
            return bool(expression.ranges)
        case Concatenation():
            return all(_ends(part, alive) for part in expression.parts)
        case Choice():
            return any(_ends(part, alive) for part in expression.parts)
        case Repeated():
            return expression.least == 0 or _ends(expression.part, alive)
        case Rule():
            return expression.name in alive
    return True


def _pruned(expression: Expression, alive: set[str]) -> Expression:
    """Removes what no finite text can match."""
    match expression:
        case Concatenation():
            return concatenation(*(_pruned(part, alive) for part in expression.parts))
        case Choice():
            parts = [part for part in expression.parts if _ends(part, alive)]
            return choice(_pruned(part, alive) for part in parts)
        case Repeated():
            if not _ends(expression.part, alive):
                return EMPTY
            return repeated(_pruned(expression.part, alive), expression.least, expression.most)
    return expression


def ebnf(root: Expression, rules: Mapping[str, Expression]) -> str:
    """The grammar as xgrammar reads it."""
    lines = [f"root ::= {_shown(root)}"]
    return "\n".join(lines + [f"{name} ::= {_shown(rule)}" for name, rule in rules.items()])


def _shown(expression: Expression) -> str:
    match expression:
        case Text():
            return f'"{"".join(map(_escaped, expression.text))}"'
        case Characters():
            return _shown_class(expression.ranges)
        case Concatenation():
            return " ".join(_grouped(part) for part in expression.parts)
        case Choice():
            return " | ".join(_grouped(part) for part in expression.parts)
        case Repeated():
            most = "" if expression.most is None else str(expression.most)
            bounds = f"{{{expression.least},{most}}}"
            short = {"{0,}": "*", "{1,}": "+", "{0,1}": "?"}.get(bounds, bounds)
            if short == bounds and isinstance(expression.part, Characters):
                # xgrammar needs seconds to repeat a class 100 times, but no time for a complement.
                return _shown_complement(expression.part.ranges) + bounds
            return _grouped(expression.part) + short
        case Rule():
            return expression.name


def _shown_class(ranges: Ranges) -> str:
    # A class of most characters as a complement: xgrammar takes ten times as long otherwise.
    if ranges and ranges[-1][1] == _LAST:
        return _shown_complement(ranges)
    return f"[{''.join(map(_range, ranges))}]"


def _shown_complement(ranges: Ranges) -> str:
    return f"[^{''.join(map(_range, _outside(ranges)))}]"


def _grouped(expression: Expression) -> str:
    shown = _shown(expression)
    is_single = isinstance(expression, (Text, Characters, Rule))
    return shown if is_single else f"({shown})"


def _range(bounds: tuple[int, int]) -> str:
    first, last = (f"\\U{point:08x}" for point in bounds)
    return first if first == last else f"{first}-{last}"


def _outside(ranges: Ranges) -> Ranges:
    """All other code points, including surrogates."""
    return union([*complement(ranges), (0xD800, 0xDFFF)])


def _escaped(character: str) -> str:
    is_plain = " " <= character <= "~" and character not in '"\\'
    return character if is_plain else f"\\U{ord(character):08x}"


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted, without overlaps."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    """All other code points, except surrogates, which UTF-8 cannot encode."""
    kept, start = [], 0
    for first, last in [*union([*ranges, (0xD800, 0xDFFF)]), (0x110000, 0x110000)]:
        if start < first:
            kept.append((start, first - 1))
        start = last + 1
    return tuple(kept)


def intersection(one: Ranges, other: Ranges) -> Ranges:
    """What is in both."""
    return complement(union([*complement(one), *complement(other)]))
