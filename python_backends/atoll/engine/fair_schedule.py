"""How clients share steps, places and blocks of a scheduler; see ``fairness.budget``.

Of a client that may have fewer tokens of a step than it has sequences, those advance that have
waited longest. With one client, nothing here has an effect. Requests whose client is None, such as
canaries, are neither limited nor counted.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Sequence

from atoll.engine.limits import EngineLimits
from atoll.engine.plan import StepPlan
from atoll.engine.request import RequestState
from atoll.engine.waiting import WaitingQueue, last_due
from atoll.fairness.budget import FairBudget
from atoll.fairness.shares import is_below_share, max_min_shares


class FairSchedule:
    """One step after the other: ``begin``, then what its sequences may have. Not thread-safe."""

    def __init__(self, limits: EngineLimits) -> None:
        self._limits, self._budget = limits, FairBudget()
        # What clients may still have of the step; None: there is no limit.
        self._left: dict[str, int] | None = None
        self._rows = Counter[str]()
        self._num_rows = self._num_steps = 0
        self._with_prompts = set[str | None]()
        self._turns = itertools.count(1)

    def begin(self, running: Sequence[RequestState], waiting: WaitingQueue) -> None:
        """A new step, which is shared by the clients of all these sequences."""
        if not self._limits.fair_scheduling:
            return
        demands, rows, most = Counter[str](), Counter[str](), self._limits.max_batch_prefill_tokens
        for sequence in itertools.chain(running, waiting):
            client = sequence.request.client
            if client is not None:
                num_encoder_tokens = 0 if sequence.is_encoded else len(sequence.request.encoder_ids)
                known = 0 if sequence.num_computed_tokens else sequence.num_known_tokens
                demands[client] += sequence.num_pending_tokens - known + num_encoder_tokens
                rows[client] += 1
        self._left = self._budget.allowances({name: min(n, most) for name, n in demands.items()})
        if self._left is None:
            return
        self._num_steps += 1
        self._num_rows = self._limits.max_batch_size
        self._rows = Counter(max_min_shares(rows, self._num_rows))
        self._with_prompts = {s.request.client for s in running if s.num_pending_tokens > 1}
        self._with_prompts |= {s.request.client for s in waiting}

    def measured(self, plan: StepPlan, seconds: float) -> None:
        """A step has taken so long."""
        self._budget.cost.add(sum([row.num_new_tokens for row in plan]), seconds)

    def in_turn(self, decoding: Sequence[RequestState]) -> list[RequestState]:
        """Those that advance by a token, in the same order; all beams of a search, or none.

        Half of what a client may have is kept for its prompts, if it has any.
        """
        if self._left is None:
            return [*decoding]
        halves = {
            client: (left + self._num_steps % 2) // 2
            for client, left in self._left.items()
            if client in self._with_prompts and left > 0
        }
        self._left = {name: left - halves.get(name, 0) for name, left in self._left.items()}
        chosen = self._chosen(decoding)
        self._left = {name: left + halves.get(name, 0) for name, left in self._left.items()}
        return chosen

    def others(self, decoding: Sequence[RequestState]) -> list[RequestState]:
        """Those of ``decoding`` that advance with what prompts have left."""
        if self._left is None:
            return []
        self._rows = Counter({client: self._num_rows for client in self._left})
        return self._chosen(decoding)

    def left(self, sequence: RequestState) -> int:
        """Tokens of this step that its client may still have; 0: it is not its turn."""
        client = sequence.request.client
        if self._left is None or client is None:
            return sys.maxsize
        has_row = self._num_rows > 0 and self._rows[client] > 0
        return max(self._left.get(client, 0), 0) if has_row else 0

    def spend(self, sequence: RequestState, num_tokens: int, *, num_rows: int = 0) -> None:
        """Its client gets tokens of this step, perhaps more than it may. num_rows: that are new."""
        client = sequence.request.client
        self._num_rows -= num_rows
        if self._left is None or client is None:
            return
        self._rows[client] -= num_rows
        left = self._left.get(client, 0) - num_tokens
        if left < 0:
            self._budget.overdrawn(client, -left)
        self._left[client] = max(left, 0)

    def next_waiting(
        self, waiting: WaitingQueue, running: Sequence[RequestState]
    ) -> RequestState | None:
        """Whom to admit: of the class that is due, from the client who has the fewest places; of
        equals, the one that is due first. None: nobody's turn has come."""
        if self._left is None:
            return waiting[0]
        places = _places(running)
        firsts = dict[str | None, RequestState]()
        for sequence in waiting:
            if sequence.request.priority == waiting[0].request.priority:
                firsts.setdefault(sequence.request.client, sequence)
        may = [sequence for sequence in firsts.values() if self.left(sequence) > 0]
        return min(may, key=lambda sequence: places[sequence.request.client], default=None)

    def has_place(self, sequence: RequestState, running: Sequence[RequestState]) -> bool:
        """Whether one more may run. Beyond ``max_batch_size``, if its client has less than its
        share of the places: a step has no more rows for that, since clients take turns."""
        places, most = _places(running), self._limits.max_batch_size
        taken = sum(places.values()) + sequence.num_places
        if taken <= most:
            return True
        if self._left is None or taken > 2 * most:
            return False
        places[sequence.request.client] += sequence.num_places
        return is_below_share(places[sequence.request.client], len(places), most)

    def in_the_way(
        self, sequence: RequestState, running: Sequence[RequestState]
    ) -> RequestState | None:
        """The sequence to preempt for one that finds no room: of the client that holds most, if it
        would hold more than the newcomer's even without it. None: there is none."""
        held = _held_tokens(running)
        if self._left is None or not held:
            return None
        own = held.pop(sequence.request.client, 0) + sequence.num_tokens
        most = max(held, key=lambda client: held[client], default=None)
        if most is None:
            return None
        last = last_due([one for one in running if one.request.client == most])
        if last.request.priority < sequence.request.priority:
            return None
        rest = held[most] - sum(member.num_tokens for member in last.members)
        return last if rest >= own else None

    def last_due(self, running: Sequence[RequestState]) -> RequestState:
        """The sequence to preempt when a block is needed: of the lowest class, of the client that
        holds most of it."""
        if self._left is None:
            return last_due(running)
        lowest = max(sequence.request.priority for sequence in running)
        running = [one for one in running if one.request.priority == lowest]
        held = _held_tokens(running)
        most = max(held, key=lambda client: held[client])
        return last_due([one for one in running if one.request.client == most])

    def _chosen(self, decoding: Sequence[RequestState]) -> list[RequestState]:
        """By turns, as many as their clients may still have."""
        chosen = set[RequestState]()
        for first in sorted({s.members[0] for s in decoding}, key=lambda first: first.turn):
            count = len(first.members)
            if self.left(first) > 0 and count <= max(self._num_rows, 0):
                chosen.update(first.members)
                self.spend(first, count, num_rows=count)
                turn = next(self._turns)
                for member in first.members:
                    member.turn = turn
        return [sequence for sequence in decoding if sequence in chosen]


def _places(running: Sequence[RequestState]) -> Counter[str | None]:
    """Sequences that run, or will once the beams of searches have parted, by client."""
    places = Counter[str | None]()
    for sequence in running:
        places[sequence.request.client] += sequence.num_places
    return places


def _held_tokens(running: Sequence[RequestState]) -> Counter[str | None]:
    held = Counter[str | None]()
    for sequence in running:
        held[sequence.request.client] += sequence.num_tokens
    return held
