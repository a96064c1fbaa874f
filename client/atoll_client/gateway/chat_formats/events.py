"""What an answer consists of, in the order in which it is written."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, TypeVar


class Said(NamedTuple):
    """Text of the answer."""

    text: str


class Reasoned(NamedTuple):
    """Text of the reasoning before the answer."""

    text: str


class Called(NamedTuple):
    """The beginning of a call. id: the one that the model wrote, if its format has ids."""

    name: str
    id: str | None = None


class Argued(NamedTuple):
    """A piece of the arguments of the last call, which are JSON text."""

    text: str


class Ended(NamedTuple):
    """The end of the answer. reason: stop, length, or tool_calls if it ends behind calls."""

    reason: str


Event = Said | Reasoned | Called | Argued
T = TypeVar("T")
# What a parser is: it yields events, and None where it needs more text.
Reading = Generator[Event | None, None, T]
