"""Responses that are stored: in the memory of this process, bounded and expiring.

A response keeps the ones before it in its conversation, also after they were deleted, have expired
or had to make room. What no stored response needs is freed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from atoll_client.gateway.core.web import dump
from atoll_client.gateway.responses.answers import ModelResponse

Item = dict[str, Any]


@dataclass(eq=False)
class Stored:
    """A response with its own input. owner: of its API key. num_holders: the table, and responses
    that follow it. is_deleted: a client has deleted it. session: see ``Request.session_name``."""

    owner: str
    response: ModelResponse
    input: Sequence[Item]
    previous: Stored | None
    expires: float
    num_bytes: int
    session: str = ""
    num_holders: int = 0
    is_deleted: bool = False

    def items(self) -> list[Item]:
        """All that the model was given: the conversation before, and the input."""
        before = [] if self.previous is None else self.previous.conversation()
        return [*before, *self.input]

    def conversation(self) -> list[Item]:
        """The conversation up to this response, which is its last part."""
        found: list[Item] = []
        one: Stored | None = self
        while one is not None:
            found[:0] = _all_items(one)
            one = one.previous
        return found


class Store:
    """Responses by id.

    Args:
        max_count, max_bytes: of all together; the oldest make room. max_count 0: nothing is stored.
        lifetime_s: seconds that a response is stored.
    """

    def __init__(
        self,
        max_count: int,
        max_bytes: int,
        lifetime_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_count, self._max_bytes, self._lifetime_s = max_count, max_bytes, lifetime_s
        self._clock = clock
        # The oldest first.
        self._table: dict[str, Stored] = {}
        # Items of the responses in the table, by owner and id.
        self._items: dict[tuple[str, str], Item] = {}
        self.num_bytes = 0

    @property
    def is_closed(self) -> bool:
        """Whether nothing is stored."""
        return self._max_count == 0

    def __len__(self) -> int:
        return len(self._table)

    def add(
        self,
        owner: str,
        response: ModelResponse,
        items: Sequence[Item],
        previous: Stored | None,
        session: str = "",
    ) -> Stored:
        """Stores a response. items: its own input, each with an id."""
        expires = self._clock() + self._lifetime_s
        num_bytes = len(dump(response)) + len(dump(items))
        stored = Stored(owner, response, items, previous, expires, num_bytes, session)
        self._hold(stored)
        # What it replaces may be the only one that holds the response before.
        self.drop(owner, response["id"])
        self._table[response["id"]] = stored
        for item in _all_items(stored):
            self._items[owner, item["id"]] = item
        self._make_room()
        return stored

    def get(self, owner: str, response_id: str) -> Stored | None:
        """A response that this owner has stored, unless it has expired."""
        self._make_room()
        found = self._table.get(response_id)
        return found if found is not None and found.owner == owner else None

    def item(self, owner: str, item_id: str) -> Item | None:
        """An item of one of the owner's responses."""
        self._make_room()
        return self._items.get((owner, item_id))

    def drop(self, owner: str, response_id: str) -> bool:
        """Removes a response; False: there is none."""
        found = self.get(owner, response_id)
        if found is not None:
            self._remove(response_id)
        return found is not None

    def _make_room(self) -> None:
        now = self._clock()
        while self._table:
            oldest = next(iter(self._table))
            is_full = len(self._table) > self._max_count or self.num_bytes > self._max_bytes
            if not is_full and self._table[oldest].expires > now:
                return
            self._remove(oldest)

    def _remove(self, response_id: str) -> None:
        stored = self._table.pop(response_id)
        for item in _all_items(stored):
            if self._items.get((stored.owner, item["id"])) is item:
                del self._items[stored.owner, item["id"]]
        self._release(stored)

    def _hold(self, stored: Stored | None) -> None:
        """Counts one more holder, and the bytes of what had none."""
        while stored is not None:
            stored.num_holders += 1
            if stored.num_holders > 1:
                return
            self.num_bytes += stored.num_bytes
            stored = stored.previous

    def _release(self, stored: Stored | None) -> None:
        while stored is not None:
            stored.num_holders -= 1
            if stored.num_holders:
                return
            self.num_bytes -= stored.num_bytes
            stored = stored.previous


def _all_items(stored: Stored) -> list[Item]:
    outputs: list[Any] = stored.response["output"]
    return [*stored.input, *outputs]
