"""The texts that wait for a forward pass, by client.

With one client, a batch is taken in the order of the queue. Several share it (``fairness.budget``):
batches are smaller then, since a text that comes has to wait until the running one has ended.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

from atoll.encoders.packer import Item, place, take
from atoll.fairness.budget import FairBudget

# Passes that take no longer than this are short enough for everyone, and for those who may come.
_SHORT_S, _LONGEST_S = 0.005, 0.01


class WaitingTexts:
    """The queues of all clients. Not thread-safe. max_tokens, max_items: of a batch."""

    def __init__(self, max_tokens: int, max_items: int | None) -> None:
        self._max_tokens, self._max_items = max_tokens, max_items
        self._queues: dict[str | None, deque[Item]] = {}
        self._sizes: dict[str, int] = {}
        self._budget = FairBudget(_SHORT_S, _LONGEST_S)

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, items: Sequence[Item]) -> None:
        """Queues a request's items, which are due together."""
        if not items:
            return
        client = items[0].client
        place(self._queues.setdefault(client, deque()), items)
        if client is not None:
            self._sizes[client] = self._sizes.get(client, 0) + _num_tokens(items)

    def take(self) -> list[Item]:
        """Removes the next batch; at least one item."""
        allowances = self._budget.allowances(
            {name: max(min(size, self._max_tokens), 1) for name, size in self._sizes.items()}
        )
        if allowances is None and len(self._queues) == 1:
            return self._take(next(iter(self._queues)), self._max_tokens, self._max_items)
        taken, num_left = list[Item](), self._max_tokens
        for client in self._order():
            allowed = num_left
            if client is not None and allowances is not None:
                allowed = min(allowances[client], num_left)
            num_more = None if self._max_items is None else self._max_items - len(taken)
            if allowed <= 0 or num_more == 0:
                continue
            if taken and len(self._queues[client][0].ids) > allowed:
                # The others do not wait for it, unless it has waited for its share.
                if client is not None:
                    self._budget.overdrawn(client, -allowed)
                continue
            own = self._take(client, allowed, num_more)
            count = _num_tokens(own)
            if client is not None and count > allowed:
                self._budget.overdrawn(client, count - allowed)
            taken += own
            num_left -= count
        return taken

    def measured(self, num_tokens: int, seconds: float) -> None:
        """A batch has taken so long."""
        self._budget.cost.add(num_tokens, seconds)

    def clear(self) -> list[Item]:
        """Removes and returns all items."""
        found = list(itertools.chain(*self._queues.values()))
        self._queues.clear()
        self._sizes.clear()
        return found

    def _order(self) -> list[str | None]:
        """Clients whose first text is of the class that is due, then the others; who has less to
        do goes first."""
        firsts = {client: queue[0] for client, queue in self._queues.items()}
        due = min(firsts.values(), key=lambda item: item.due).priority

        def rank(client: str | None) -> tuple[bool, int, float]:
            first = firsts[client]
            return first.priority != due, self._sizes.get(client or "", 0), first.due

        return sorted(firsts, key=rank)

    def _take(self, client: str | None, max_tokens: int, max_items: int | None) -> list[Item]:
        queue = self._queues[client]
        taken = take(queue, max_tokens, max_items)
        if not queue:
            del self._queues[client]
        if client is not None:
            self._sizes[client] -= _num_tokens(taken)
            if client not in self._queues:
                del self._sizes[client]
        return taken


def _num_tokens(items: Sequence[Item]) -> int:
    return sum([len(item.ids) for item in items])
