"""Blocks that idle conversations keep between their turns.

Parked blocks are given up before any running sequence is preempted, the longest idle first; the
conversation is then computed again from its tokens.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import NamedTuple

from atoll.engine.blocks import BlockManager, BlockTable
from atoll.engine.request import Sequence


class Parked(NamedTuple):
    """Tokens in the cache, their blocks, and since when nobody has asked (monotonic seconds)."""

    token_ids: list[int]
    table: BlockTable
    since: float


class Parking:
    """Conversations by id. Not thread-safe."""

    def __init__(self, blocks: BlockManager) -> None:
        self._blocks = blocks
        self._parked: OrderedDict[str, Parked] = OrderedDict()  # longest idle first

    def __len__(self) -> int:
        return len(self._parked)

    def tables(self) -> list[BlockTable]:
        """The tables that hold blocks here."""
        return [parked.table for parked in self._parked.values()]

    def park(self, session_id: str, sequence: Sequence) -> None:
        """Keeps a finished sequence's blocks; whatever the conversation had here goes."""
        self.forget(session_id)
        tokens = sequence.token_ids[: sequence.num_computed_tokens]
        self._blocks.truncate(sequence.table, len(tokens))
        self._parked[session_id] = Parked(tokens, sequence.table, time.monotonic())
        sequence.table = BlockTable(sequence.table.root)

    def take(self, session_id: str, sequence: Sequence) -> int:
        """Hands the blocks of the common prefix to ``sequence``; returns its tokens."""
        parked = self._parked.pop(session_id, None)
        if parked is None:
            return 0
        limit = min(len(parked.token_ids), sequence.num_tokens - 1)
        common = 0
        if parked.table.root == sequence.table.root:
            while common < limit and parked.token_ids[common] == sequence.token_ids[common]:
                common += 1
        if parked.table.num_released and common < len(parked.token_ids):
            common = 0  # what the shorter text would look back at has been given away
        kept = self._blocks.truncate(parked.table, common)
        if kept:
            sequence.table = parked.table
        return kept

    def evict(self) -> bool:
        """Gives up the longest idle conversation; False if there is none."""
        if not self._parked:
            return False
        self.forget(next(iter(self._parked)))
        return True

    def forget(self, session_id: str) -> None:
        """Frees what a conversation holds, if anything."""
        parked = self._parked.pop(session_id, None)
        if parked is not None:
            self._blocks.release(parked.table)

    def expire(self, idle_s: float) -> None:
        """Frees conversations that have been idle longer."""
        limit = time.monotonic() - idle_s
        while self._parked and next(iter(self._parked.values())).since < limit:
            self.evict()
