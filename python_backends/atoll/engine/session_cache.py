"""Blocks and states that idle conversations keep between their turns.

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
from atoll.engine.state_slots import NO_SLOT, HeldState, StateSlots


class KeptSession(NamedTuple):
    """Tokens in the cache, their blocks, and when they became idle (monotonic seconds).

    state: of all the tokens, or nothing.
    """

    token_ids: list[int]
    tables: tuple[BlockTable, ...]
    state: HeldState
    since: float


class SessionCache:
    """Conversations by id. Not thread-safe."""

    def __init__(self, cache: KVCacheManager, states: StateSlots) -> None:
        self._cache, self._states = cache, states
        self._entries: OrderedDict[str, KeptSession] = OrderedDict()  # longest idle first

    def __len__(self) -> int:
        return len(self._entries)

    def tables(self) -> list[tuple[BlockTable, ...]]:
        """The tables that hold blocks here."""
        return [entry.tables for entry in self._entries.values()]

    def states(self) -> list[HeldState]:
        """The states that are held here."""
        return [entry.state for entry in self._entries.values()]

    @property
    def holds_state(self) -> bool:
        """Whether an eviction can free a state."""
        return any(state.slot != NO_SLOT for state in self.states())

    def keep(self, session_id: str, sequence: RequestState) -> None:
        """Keeps a finished sequence's blocks in place of what the conversation had before."""
        self.forget(session_id)
        kept = self._cache.truncate(sequence.tables, sequence.num_computed_tokens)
        if kept:
            entry = KeptSession(
                sequence.token_ids[:kept], sequence.tables, sequence.state, time.monotonic()
            )
            self._entries[session_id] = entry
            entry.state.borders = ()
            self._drop_other_state(entry)
            sequence.tables = self._cache.new_tables(sequence.root)
            sequence.state = HeldState()

    def shorten(self, session_id: str, num_tokens: int) -> None:
        """Frees what a conversation holds beyond ``num_tokens``."""
        entry = self._entries.get(session_id)
        if entry is not None and num_tokens < len(entry.token_ids):
            kept = self._cache.truncate(entry.tables, num_tokens)
            del entry.token_ids[kept:]
            self._drop_other_state(entry)

    def resume(self, session_id: str, sequence: RequestState) -> int:
        """Moves the blocks of the common prefix to ``sequence``, and the state, if it is that of
        the common prefix; returns its number of tokens.

        Another state cannot go back: the prefix ends at the last snapshot then.
        """
        entry = self._entries.pop(session_id, None)
        if entry is None:
            return 0
        limit = min(len(entry.token_ids), sequence.num_tokens - 1)
        common = 0
        if entry.tables[0].root == sequence.root:
            while common < limit and entry.token_ids[common] == sequence.token_ids[common]:
                common += 1
        kept = self._cache.truncate(entry.tables, common)
        del entry.token_ids[kept:]
        self._drop_other_state(entry)
        sequence.state = entry.state
        if self._states.is_used and entry.state.slot == NO_SLOT:
            kept = self._states.go_back(self._cache, entry.tables, kept, sequence.state)
        if kept:
            sequence.tables = entry.tables
        return kept

    def _drop_other_state(self, entry: KeptSession) -> None:
        """Frees a state of more tokens than are kept, or of none."""
        if entry.state.num_tokens != len(entry.token_ids) or not entry.token_ids:
            self._states.release(entry.state)

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
            self._states.release(entry.state)

    def expire(self, idle_s: float) -> None:
        """Frees conversations that have been idle longer."""
        limit = time.monotonic() - idle_s
        while self._entries and next(iter(self._entries.values())).since < limit:
            self.evict()
