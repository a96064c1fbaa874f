"""JSON from clients and settings, in which no key may be given twice: one value would be lost."""

import json
from collections.abc import Callable
from typing import Any


def loads(text: str | bytes, parse_number: Callable[[str], Any] | None = None) -> Any:
    """What JSON stands for. ``parse_number`` reads fractions, infinities and NaN.

    Raises:
        ValueError: it is no JSON, or an object in it has a key twice; names the key.
    """
    return json.loads(
        text, object_pairs_hook=_unique, parse_constant=parse_number, parse_float=parse_number
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {name!r:.100} is given twice")
            seen.add(name)
    return found
