"""Parses JSON of clients without losing anything.

A key that occurs twice is an error. So is an integer of more than 64 bits that would be rounded.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from atoll_client.errors import MalformedRequest, ValidationError

# Only integers with this many digits can exceed 64 bits.
_LONG_NUMBER = re.compile(rb"[0-9]{19}")


class _GivenTwice(Exception):
    """A key occurs twice; its message is the key."""


def parse(
    raw: bytes, problem: str = "the body is not valid JSON", *, has_long_integers: bool = False
) -> Any:
    """The value of JSON text.

    Args:
        problem: the beginning of error messages.
        has_long_integers: integers of more than 64 bits are returned for the caller to check.
            Otherwise, they are refused unless a floating-point number has the same value.

    Raises:
        MalformedRequest: it is not JSON, or a key occurs twice in an object.
        ValidationError: an integer has more than 64 bits.
    """
    try:
        found = orjson.loads(raw)
        is_long = _LONG_NUMBER.search(raw) is not None
        if is_long or not _are_all_keys_there(raw, found):
            parse_integer = int if has_long_integers else _integer
            found = json.loads(raw, object_pairs_hook=_unique, parse_int=parse_integer)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"{problem}: {error}") from None
    except RecursionError:
        raise MalformedRequest(f"{problem}: it is nested too deeply") from None
    except _GivenTwice as error:
        name = str(error)
        raise MalformedRequest(
            f"{problem}: the key {name!r:.100} is given twice", param=name
        ) from None
    return found


def _integer(text: str) -> int | float:
    value = int(text)
    if -(2**63) <= value < 2**64:
        return value
    if float(text) == value:
        return float(text)
    raise ValidationError(f"the integer {text[:40]} has more than 64 bits, which is not supported")


def _are_all_keys_there(raw: bytes, found: Any) -> bool:
    """Whether there are as many colons as keys in objects outside of lists.

    This holds for most long bodies, such as token ids. Counting colons is much faster than parsing
    again with a check of each object, which orjson does not support.
    """
    num_colons = raw.count(b":")
    objects = [found] if type(found) is dict else []
    while objects and num_colons > 0:
        members = objects.pop()
        num_colons -= len(members)
        objects += [value for value in members.values() if type(value) is dict]
    return num_colons == 0


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _GivenTwice(name)
            seen.add(name)
    return found
