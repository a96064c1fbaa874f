"""JSON from clients, in which no key may be given twice: one of the values would be lost."""

from __future__ import annotations

import json
from typing import Any

import orjson

from atoll_client.errors import MalformedRequest


class _GivenTwice(Exception):
    """Holds the key."""


def parse(raw: bytes, problem: str = "the body is not valid JSON") -> Any:
    """What JSON stands for. ``problem`` begins the message of an error.

    Raises:
        MalformedRequest: it is no JSON, or an object in it has a key twice.
    """
    try:
        found = orjson.loads(raw)
        if not _are_all_keys_there(raw, found):
            json.loads(raw, object_pairs_hook=_unique)
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


def _are_all_keys_there(raw: bytes, found: Any) -> bool:
    """Whether each colon belongs to a key of the objects that stand outside of lists.

    That is so for most long bodies, token ids say, and to count colons costs far less than to read
    again with a function for each object, which orjson does not offer.
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
