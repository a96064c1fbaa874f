"""Blocks that idle conversations keep between their turns.

They are evicted before any running sequence is preempted, the longest idle first; the conversation
is then computed again from its tokens.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import NamedTuple

from atoll.engine.blocks import BlockTable
from atoll.engine.kv_cache import KVCacheManager
from atoll.engine.request import RequestState


class KeptSession(NamedTuple):
    """Tokens in the cache, their blocks, and when they became idle (monotonic seconds)."""

    token_ids: list[int]
    tables: tuple[BlockTable, ...]
    since: float


class SessionCache:
    """Conversations by id. Not thread-safe."""

    def __init__(self, cache: KVCacheManager) -> None:
        self._cache = cache
        self._entries: OrderedDict[str, KeptSession] = OrderedDict()  # longest idle first

    def __len__(self) -> int:
        return len(self._entries)

    def tables(self) -> list[tuple[BlockTable, ...]]:
        """The tables that hold blocks here."""
        return [entry.tables for entry in self._entries.values()]

    def keep(self, session_id: str, sequence: RequestState) -> None:
        """Keeps a finished sequence's blocks in place of what the conversation had before."""
        self.forget(session_id)
        kept = self._cache.truncate(sequence.tables, sequence.num_computed_tokens)
        if kept:
            tokens = sequence.token_ids[:kept]
            self._entries[session_id] = KeptSession(tokens, sequence.tables, time.monotonic())
            sequence.tables = self._cache.new_tables(sequence.root)

    def shorten(self, session_id: str, num_tokens: int) -> None:
        """Frees what a conversation holds beyond ``num_tokens``."""
        entry = self._entries.get(session_id)
        if entry is not None and num_tokens < len(entry.token_ids):
            kept = self._cache.truncate(entry.tables, num_tokens)
            del entry.token_ids[kept:]

    def resume(self, session_id: str, sequence: RequestState) -> int:
        """Moves the blocks of the common prefix to ``sequence``; returns its number of tokens."""
        entry = self._entries.pop(session_id, None)
        if entry is None:
            return 0
        limit = min(len(entry.token_ids), sequence.num_tokens - 1)
        common = 0
        if entry.tables[0].root == sequence.root:
            while common < limit and entry.token_ids[common] == sequence.token_ids[common]:
                common += 1
        kept = self._cache.truncate(entry.tables, common)
        if kept:
            sequence.tables = entry.tables
        return kept

    def evict(self) -> bool:
        """Evicts the longest idle conversation; False if there is none."""
        if not self._entries:
            return False
        self.forget(next(iter(self._entries)))
        return True

    def forget(self, session_id: str) -> None:
        """Frees what a conversation holds, if anything."""
        entry = self._entries.pop(session_id, None)
        if entry is not None:
            self._cache.release(entry.tables)

    def expire(self, idle_s: float) -> None:
        """Frees conversations that have been idle longer."""
        limit = time.monotonic() - idle_s
        while self._entries and next(iter(self._entries.values())).since < limit:
            self.evict()
