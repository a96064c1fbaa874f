"""How many tokens of the next forward pass each client may have.

A pass is shared by all that are in it, and as slow for one with one token as for one with hundreds.
While ``n`` clients want something, a pass takes at most ``n`` times as long as it would with the
work of the client who wants the least, who gets all of that; the others share the rest equally
(max-min fairness). A quarter of the others' time is left for what they cause besides: responses,
tokenization, the gateway. Each is then as fast as if he had every n-th moment of the model to
himself, and a model whose passes take no longer with more tokens, as on a GPU, limits nobody.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from atoll.fairness.shares import max_min_shares
from atoll.fairness.step_cost import StepCost

# A client who wanted something so many seconds ago counts as one who wants the same now: between
# two steps of an answer, or two requests, nothing of his is there.
_RECENT_S = 1.0
# One who wanted something so many seconds ago may come back, and cannot interrupt a pass: none is
# as long as it might be.
_EXPECTED_S = 10.0
# Of another client's equal share of time, what passes get.
_OTHERS = 0.75


class FairBudget:
    """Allowances of clients, pass by pass. Not thread-safe.

    least_s: passes that take no longer than this are not shortened; longest_s: those that are
    shortened only for clients who may come back.
    """

    def __init__(self, least_s: float = 0.0, longest_s: float = 0.05) -> None:
        self.cost = StepCost()
        self._least_s, self._longest_s = least_s, longest_s
        self._recent: dict[str, tuple[float, int]] = {}
        self._debts: dict[str, int] = {}

    def allowances(self, demands: Mapping[str, int]) -> dict[str, int] | None:
        """Tokens for each client, 0 or less if it is not his turn; None: there is no limit, since
        nobody else is there.

        demands: tokens that each client wants computed now, one or more.
        """
        now = time.monotonic()
        self._recent |= {client: (now, tokens) for client, tokens in demands.items()}
        if len(self._recent) > 1:
            seen = self._recent.items()
            self._recent = {name: seen for name, seen in seen if now - seen[0] < _EXPECTED_S}
        if len(self._recent) < 2:
            self._debts.clear()
            return None
        shares = max_min_shares(demands, self._num_tokens(now))
        if shares and all(self._debts.get(client, 0) >= share for client, share in shares.items()):
            # Somebody has to go on, and nobody who is owed something is there.
            self._debts.pop(min(shares, key=lambda client: self._debts[client]), None)
        for client, share in shares.items():
            debt = self._debts.pop(client, 0)
            if debt >= share:
                self._debts[client] = debt - share
            shares[client] = share - debt
        return shares

    def overdrawn(self, client: str, num_tokens: int) -> None:
        """A client got so many tokens more than he may, since they could not be divided: he has
        less in the passes that follow. Below zero: he got nothing for that reason, and has more.
        """
        self._debts[client] = self._debts.get(client, 0) + num_tokens

    def _num_tokens(self, now: float) -> int:
        """Tokens of the next pass."""
        least = min(tokens for _, tokens in self._recent.values())
        times = 1 + _OTHERS * (len(self._recent) - 1)
        seconds = times * self.cost.seconds(least)
        num_recent = sum(now - when < _RECENT_S for when, _ in self._recent.values())
        longest_s = self._longest_s if num_recent < 2 else self._least_s
        return max(self.cost.tokens(max(seconds, longest_s)), least * len(self._recent))
