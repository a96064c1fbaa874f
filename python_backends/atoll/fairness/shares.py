"""Max-min fair shares: nobody gets more while somebody who wants more has less."""

from __future__ import annotations

from collections.abc import Mapping


def max_min_shares(demands: Mapping[str, int], total: int) -> dict[str, int]:
    """What each gets of ``total``, whole units; at least one of it each.

    Who wants the least is served first, so that he gets all if it is no more than an equal share.
    """
    shares = dict[str, int]()
    left = total
    for position, name in enumerate(sorted(demands, key=lambda name: demands[name])):
        equal = left // (len(demands) - position)
        shares[name] = max(min(demands[name], equal), 1)
        left -= shares[name]
    return shares


def is_below_share(own: int, num_clients: int, limit: int) -> bool:
    """Whether a client with ``own`` of a limited number of places has no more than an equal share.

    False if there are no other clients, who could have taken the rest.
    """
    return num_clients > 1 and own <= limit // num_clients
