"""Simulated servers with prefix caches, to which ``Affinity`` sends conversations."""

from __future__ import annotations

import heapq
import random
import statistics
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from atoll_client.gateway.core.affinity import Affinity, Origin
from atoll_client.tasks import Prompt

NUM_CONVERSATIONS, NUM_TURNS, NUM_SYSTEMS = 400, 6, 8
# Of 16 tokens each.
NUM_BLOCKS = 4_000
_SYSTEM_BLOCKS = 32
_TURN_BLOCKS = (8, 48)
# Seconds for a block of a prompt, and for a token of an answer when nothing else is computed.
_BLOCK_S, _TOKEN_S = 0.006, 0.004
_ANSWER_TOKENS = (40, 240)
_THINK_S, _BETWEEN_S = 20.0, 0.25
_MIX = 4  # requests that a server computes at once without slowing down


@dataclass
class _Server:
    """What ``Affinity`` knows of a server, and its cache: blocks by (prompt's beginning, index)."""

    address: str
    num_outstanding: int = 0
    cache: OrderedDict[tuple[str, int], None] = field(default_factory=OrderedDict)

    def prefill(self, blocks: list[tuple[str, int]]) -> int:
        """The number of blocks that are found; afterwards all are there, the least used dropped."""
        num_hits = next((i for i, b in enumerate(blocks) if b not in self.cache), len(blocks))
        for block in reversed(blocks):
            self.cache.pop(block, None)
            self.cache[block] = None
        while len(self.cache) > NUM_BLOCKS:
            self.cache.popitem(last=False)
        return num_hits


def simulate(num_servers: int, mode: str, max_load: float, seed: int = 0) -> dict[str, float]:
    """Shares of hits, the busiest server's load over the mean, mean and 99% of times in seconds.

    mode: of the setting ``affinity``; forgetful: as session, without what Affinity remembers.
    """
    draw = random.Random(seed)
    affinity = Affinity("none" if mode == "none" else "session", max_load)
    servers: Any = [_Server(f"10.0.0.{at}:8001") for at in range(num_servers)]
    # (time, number, conversation, turn, server that completes one, or None: a turn begins)
    events: list[tuple[float, int, int, int, Any]] = []
    began = 0.0
    for name in range(NUM_CONVERSATIONS):
        began += draw.expovariate(1 / _BETWEEN_S)
        heapq.heappush(events, (began, len(events), name, 0, None))
    lengths = [[draw.randint(*_TURN_BLOCKS) for _ in range(NUM_TURNS)] for _ in range(len(events))]
    number, asked, hits = len(events), 0, 0
    spread: list[float] = []
    times: list[float] = []
    while events:
        now, _, name, turn, server = heapq.heappop(events)
        number += 1
        if server is not None:
            server.num_outstanding -= 1
            if turn + 1 < NUM_TURNS:
                pause_s = draw.expovariate(1 / _THINK_S)
                heapq.heappush(events, (now + pause_s, number, name, turn + 1, None))
            continue
        key = affinity.key("m", Origin(f"session {name}", Prompt))
        if mode == "forgetful":
            affinity = Affinity("session", max_load)
        chosen: Any = affinity.order(key, servers)[0][0]
        loads = [one.num_outstanding for one in servers]
        if sum(loads) >= num_servers:
            spread.append(max(loads) * num_servers / sum(loads))
        system = name % NUM_SYSTEMS
        own = sum(lengths[name][: turn + 1])
        blocks = [(f"system {system}", at) for at in range(_SYSTEM_BLOCKS)]
        blocks += [(f"conversation {name}", at) for at in range(own)]
        found = chosen.prefill(blocks)
        asked, hits = asked + len(blocks), hits + found
        chosen.num_outstanding += 1
        work_s = _BLOCK_S * (len(blocks) - found) + _TOKEN_S * draw.randint(*_ANSWER_TOKENS)
        took_s = work_s * max(1.0, chosen.num_outstanding / _MIX)
        times.append(took_s)
        heapq.heappush(events, (now + took_s, number, name, turn, chosen))
    return {
        "hits": hits / asked,
        "load": statistics.fmean(spread) if spread else 1.0,
        "mean": statistics.fmean(times),
        "p99": statistics.quantiles(times, n=100)[-1],
    }
