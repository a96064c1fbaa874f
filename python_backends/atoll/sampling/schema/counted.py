"""Texts of a limited length that are sequences of repeated classes, as counts that a parser keeps.

xgrammar follows a count in no time, but needs as long for each state of an automaton as for a whole
class. So patterns with one part of variable length need no automaton.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from atoll.sampling.schema.expressions import (
    NOTHING,
    Characters,
    Choice,
    Concatenation,
    Expression,
    Ranges,
    Repeated,
    Text,
    choice,
    concatenation,
)

_MAX_SEQUENCES = 64


@dataclass(frozen=True)
class _Item:
    """``least`` to ``most`` characters of a class."""

    ranges: Ranges
    least: int
    most: int | None


_Sequence = tuple[_Item, ...]
# The expression of ``least`` to ``most`` characters of a class.
Counting = Callable[[Ranges, int, "int | None"], Expression]


def counted(
    expression: Expression,
    least: int,
    most: int | None,
    counting: Counting,
) -> Expression | None:
    """The texts of an expression of plain characters whose length is within bounds.

    None: they are no such sequences.
    """
    sequences = _sequences(expression)
    found = [_within(sequence, least, most, counting) for sequence in sequences or ()]
    kept = [part for part in found if part is not None]
    return choice(kept) if sequences is not None and len(kept) == len(found) else None


def _sequences(expression: Expression) -> list[_Sequence] | None:
    """An expression's alternatives; None if one is more than repeated classes, or for too many."""
    match expression:
        case Text(text):
            return [tuple(_Item(((ord(c), ord(c)),), 1, 1) for c in text)]
        case Characters(ranges):
            return [(_Item(ranges, 1, 1),)]
        case Repeated(part, 0, 1):
            found = _sequences(part)
            return None if found is None else [(), *found]
        case Repeated(Characters(ranges), least, most):
            return [(_Item(ranges, least, most),)]
        case Repeated(part, least, most) if least == most and least <= _MAX_SEQUENCES:
            return _sequences(concatenation(*[part] * least))
        case Choice(parts):
            options = [_sequences(part) for part in parts]
            known = [option for option in options if option is not None]
            together = list(itertools.chain.from_iterable(known))
            is_known = len(known) == len(options) and len(together) <= _MAX_SEQUENCES
            return together if is_known else None
        case Concatenation(parts):
            chosen: list[_Sequence] = [()]
            for part in parts:
                following = _sequences(part)
                if following is None or len(chosen) * len(following) > _MAX_SEQUENCES:
                    return None
                chosen = [one + other for one in chosen for other in following]
            return chosen
    return None


def _within(
    items: _Sequence, least: int, most: int | None, counting: Counting
) -> Expression | None:
    """A sequence whose length is within bounds; None if several of its parts vary."""
    fixed = sum(item.least for item in items)
    longest = sum(item.least if item.most is None else item.most for item in items)
    is_open = any(item.most is None for item in items)
    missing = max(least - fixed, 0)
    room = None if most is None or (not is_open and longest <= most) else most - fixed
    if (room is not None and room < missing) or (not is_open and longest - fixed < missing):
        return NOTHING
    if missing or room is not None:
        varying = [index for index, item in enumerate(items) if item.least != item.most]
        if len(varying) > 1:
            return None
        items = _narrowed(items, varying[0], missing, room)
    return concatenation(*(counting(item.ranges, item.least, item.most) for item in items))


def _narrowed(items: _Sequence, index: int, least: int, room: int | None) -> _Sequence:
    """The item at an index takes ``least`` to ``room`` characters more than it has to."""
    item = items[index]
    most = item.most
    if room is not None:
        most = item.least + room if most is None else min(most, item.least + room)
    return (*items[:index], _Item(item.ranges, item.least + least, most), *items[index + 1 :])
