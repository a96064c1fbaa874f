"""How a character is written: literally, or inside a JSON string.

In JSON every character has only one spelling here, so that a name cannot be written in two ways.
"""

from __future__ import annotations

from collections.abc import Callable

from atoll.sampling.schema.expressions import (
    Characters,
    Expression,
    Ranges,
    Text,
    choice,
    complement,
    concatenation,
    intersection,
    repeated,
)

Spelling = Callable[[Ranges], Expression]

ANY: Ranges = complement(())
_SHORT = {
    0x08: "\\b",
    0x09: "\\t",
    0x0A: "\\n",
    0x0C: "\\f",
    0x0D: "\\r",
    0x22: '\\"',
    0x5C: "\\\\",
}
_CONTROL = ((0, 0x1F),)
# Characters that need no escape in a JSON string.
PLAIN = complement((*_CONTROL, (0x22, 0x22), (0x5C, 0x5C)))


def plain(ranges: Ranges) -> Expression:
    """A literal character."""
    return Characters(intersection(ranges, ANY))


def json_character(ranges: Ranges) -> Expression:
    """A character inside a JSON string."""
    parts: list[Expression] = []
    itself = intersection(ranges, PLAIN)
    if itself:
        parts.append(Characters(itself))
    parts += [Text(short) for point, short in _SHORT.items() if _holds(ranges, point)]
    for first, last in intersection(ranges, _CONTROL):
        points = [point for point in range(first, last + 1) if point not in _SHORT]
        parts += [Text(f"\\u{point:04x}") for point in points]
    return choice(parts)


def json_string(inner: Expression) -> Expression:
    """In quotation marks."""
    return concatenation(Text('"'), inner, Text('"'))


def spelled(text: str, spelling: Spelling) -> Expression:
    """A text, character by character."""
    return concatenation(*(spelling(((ord(c), ord(c)),)) for c in text))


def other_than(names: frozenset[str], spelling: Spelling) -> Expression:
    """Every text except these."""
    anything = repeated(spelling(ANY))
    heads = {name[0] for name in names if name}
    parts: list[Expression] = [] if "" in names else [Text("")]
    others = complement(tuple((ord(c), ord(c)) for c in sorted(heads)))
    parts.append(concatenation(spelling(others), anything))
    for head in sorted(heads):
        tails = frozenset(name[1:] for name in names if name.startswith(head))
        parts.append(concatenation(spelled(head, spelling), other_than(tails, spelling)))
    return choice(parts)


def _holds(ranges: Ranges, point: int) -> bool:
    return any(first <= point <= last for first, last in ranges)
