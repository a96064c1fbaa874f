"""The sequences of an engine, and the blocks, state slots and conversations that they hold.

Whatever holds anything is running; a sequence that waits holds nothing. Where a model has recurrent
layers, a sequence has a state slot whenever it has blocks.
"""

from __future__ import annotations

from atoll.engine.branches import restarted
from atoll.engine.kv_cache import KVCacheManager
from atoll.engine.limits import EngineLimits
from atoll.engine.plan import PlannedRequest
from atoll.engine.request import RequestState
from atoll.engine.session_cache import SessionCache
from atoll.engine.state_slots import HeldState, StateSlots
from atoll.engine.waiting import WaitingQueue


class HeldSequences:
    """Waiting and running sequences, and the blocks and states they hold. Not thread-safe.

    running: in the order of their admission, the beams of a search side by side.
    """

    def __init__(
        self, cache: KVCacheManager, limits: EngineLimits, states: StateSlots | None = None
    ) -> None:
        """states: None if no layer is recurrent."""
        self.cache, self.limits, self.states = cache, limits, states or StateSlots()
        self.session_cache = SessionCache(cache, self.states)
        self.waiting = WaitingQueue(limits.priority_aging_s)
        self.running: list[RequestState] = []

    def add(self, sequence: RequestState) -> None:
        """Queues a new sequence."""
        known = self.cache.num_known_tokens(sequence.tables, sequence.token_ids)
        sequence.num_known_tokens = 0 if sequence.wants_prompt_logprobs else known
        self.waiting.add(sequence)

    def settle(self, sequence: RequestState, row: PlannedRequest, num_accepted: int) -> bool:
        """Records what a step has made of a state; num_accepted: of the row's draft.

        False: the draft was wrong, and the state, which cannot go back, is the one before the step:
        nothing counts as computed.
        """
        return self.states.settle(
            sequence.state, row.num_computed_tokens + row.num_new_tokens,
            is_wrong=num_accepted < len(row.draft),
        )  # fmt: skip

    def advance(self, sequence: RequestState, num_computed: int) -> None:
        """Records newly cached tokens; their blocks can then be shared or freed."""
        sequence.num_computed_tokens += num_computed
        sequence.is_encoded, sequence.copies = True, ()
        self.cache.commit(sequence.tables, sequence.token_ids, sequence.num_computed_tokens)
        contents = sequence.tables[0].contents
        self.states.register(sequence.state, contents[-1])

    def finish(self, sequence: RequestState) -> None:
        """Removes a sequence; a conversation's blocks are kept for its next turn."""
        self._remove(sequence)
        session = sequence.request.session_id
        if session is not None and sequence.num_computed_tokens:
            self.session_cache.keep(session, sequence)
        self._release(sequence)

    def drop(self, sequence: RequestState) -> None:
        """Removes a sequence that ends without an answer, and all beams of a search."""
        for member in sequence.members:
            self._remove(member)
            self._release(member)
        sequence.beams.clear()  # a cycle of references

    def reset(self, cache: KVCacheManager, states: StateSlots) -> None:
        """Starts over with an empty cache; running sequences are computed again."""
        for sequence in self.waiting:
            self._release(sequence)
        while self.running:
            self.stop(self.running[-1])
        self.cache, self.states = cache, states
        self.session_cache = SessionCache(cache, states)

    def check_integrity(self) -> None:
        """Asserts that no block or state slot is lost, and that no sequence waits with any."""
        held = [s.tables for s in self.running] + self.session_cache.tables()
        assert not any(len(t) for s in self.waiting for t in (*s.tables, s.cross_table))
        self.cache.check_integrity(held, [s.cross_table for s in self.running])
        self.states.check_integrity(
            [s.state for s in [*self.running, *self.waiting]] + self.session_cache.states()
        )
        assert all(s.state == HeldState() for s in self.waiting)

    def open(self, sequence: RequestState) -> bool:
        """Reuses cached blocks if there is room for the rest of the text; else takes nothing."""
        session, found = sequence.request.session_id, 0
        if not self.states.can_hold and not self.session_cache.holds_state:
            return False
        if not sequence.wants_prompt_logprobs:  # which need every row of the prompt
            found = self.session_cache.resume(session, sequence) if session is not None else 0
            found = found or self._share_prefix(sequence)
        sequence.num_computed_tokens = found
        if self.states.max_snapshots:
            size = self.cache.block_size
            sequence.state.borders += ((sequence.num_tokens - 1) // size * size,)
        while not (has_room := self._has_room(sequence)) and self.session_cache.evict():
            continue
        if has_room:
            self.cache.grow_cross(sequence.cross_table, len(sequence.request.encoder_ids))
            self.states.open(sequence.state)
        else:
            self._release(sequence)
        return has_room

    def _share_prefix(self, sequence: RequestState) -> int:
        """Shares the blocks of the longest known prefix; returns its number of tokens.

        With states, it is one that has a snapshot, too; another is taken where the blocks end.
        """
        found = self.cache.share_prefix(sequence.tables, sequence.token_ids)
        if not self.states.is_used:
            return found
        sequence.state.borders = (found,)
        return self.states.go_back(self.cache, sequence.tables, found, sequence.state)

    def _has_room(self, sequence: RequestState) -> bool:
        """Whether there are blocks for the whole text, and one more for every running sequence and
        every other beam, and a slot for its state.

        Without one for each of these, which grow, the new sequence would be preempted at once.
        """
        return self.states.has_room(sequence.state) and self.cache.has_room(
            sequence.tables, sequence.num_tokens,
            num_cross_tokens=len(sequence.request.encoder_ids),
            num_spare=self.num_places() + sequence.num_places - 1,
            num_seen=sequence.num_computed_tokens + self.limits.max_batch_prefill_tokens,
        )  # fmt: skip

    def num_places(self) -> int:
        """Sequences that run, or will once the beams of searches have parted."""
        return sum([sequence.num_places for sequence in self.running])

    def stop(self, sequence: RequestState) -> RequestState:
        """Has a sequence wait again; returns it, or the one by which a search begins again."""
        for member in sequence.members:
            self._remove(member)
            self._release(member)
        stopped = restarted(sequence) if sequence.beams else sequence
        self.waiting.put_back(stopped)
        return stopped

    def _release(self, sequence: RequestState) -> None:
        """Frees all of a sequence's blocks; their tokens may be computed again later."""
        self.cache.release(sequence.tables, sequence.cross_table)
        self.states.release(sequence.state)
        sequence.num_computed_tokens, sequence.copies = 0, ()
        sequence.is_encoded = not sequence.request.encoder_ids

    def _remove(self, sequence: RequestState) -> None:
        for held in (self.running, self.waiting):
            if sequence in held:
                held.remove(sequence)
