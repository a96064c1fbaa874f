"""Which sequences advance in the next step, and by how many tokens.

There are no prefill and decode phases. Every sequence has tokens and computed tokens, and a step
lets the second catch up with the first: by one token in decoding, by a chunk in a long prompt.
Decoding sequences go first; prompts share the budget of ``max_batch_prefill_tokens``. When the
cache is full, the youngest sequence of the lowest class is preempted (``engine.waiting``): its
blocks are freed and computed again later. Where a model has recurrent layers, a sequence has a
state slot whenever it has blocks. The beams of a search are sequences that are scheduled, preempted
and ended together.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from atoll.engine.blocks import OutOfBlocks
from atoll.engine.branches import restarted
from atoll.engine.kv_cache import KVCacheManager
from atoll.engine.limits import EngineLimits
from atoll.engine.plan import PlannedRequest, StepPlan, planned
from atoll.engine.request import RequestState
from atoll.engine.session_cache import SessionCache
from atoll.engine.state_slots import HeldState, StateSlots
from atoll.engine.waiting import WaitingQueue, last_due

_Scheduled = tuple[RequestState, int, bool]


class Scheduler:
    """Waiting and running sequences, and the blocks and states they hold. Not thread-safe."""

    def __init__(
        self, cache: KVCacheManager, limits: EngineLimits, states: StateSlots | None = None
    ) -> None:
        """states: None if no layer is recurrent."""
        self.cache, self.limits, self.states = cache, limits, states or StateSlots()
        self.session_cache = SessionCache(cache, self.states)
        self.waiting = WaitingQueue(limits.priority_aging_s)
        self.running: list[RequestState] = []  # in the order of their admission
        self.num_preemptions = 0
        self._unfit: list[RequestState] = []
        self._steps_since_admission = 0

    def add(self, sequence: RequestState) -> None:
        """Queues a new sequence."""
        self.waiting.add(sequence)

    def schedule(self, draft: Callable[[RequestState], list[int]] | None = None) -> StepPlan:
        """Plans the next step; mutates block tables. ``draft`` guesses tokens when decoding."""
        preemptions = self.num_preemptions
        plan: list[_Scheduled] = []
        for sequence in [s for s in self.running if s.num_pending_tokens == 1]:
            self._decode(sequence, draft, plan)
        budget = self.limits.max_batch_prefill_tokens
        if plan:
            budget = min(budget, self._mixed_budget(len(plan)))
        for sequence in [s for s in self.running if s.num_pending_tokens > 1]:
            budget -= self._prefill(sequence, budget, plan)
        self._steps_since_admission += 1
        if preemptions == self.num_preemptions:
            self._admit(budget, plan)
        # A sequence may have been planned, and then preempted for an older one.
        running = set(self.running)
        return [planned(*item) for item in plan if item[0] in running]

    def take_unfit(self) -> list[RequestState]:
        """Removes and returns the sequences that do not fit even into an empty cache."""
        unfit, self._unfit = self._unfit, []
        return unfit

    def _mixed_budget(self, num_decoding: int) -> int:
        """Prompt tokens in a step with decoding sequences; more if more sequences wait than decode.

        Otherwise many requests would wait so that few streams do not pause.
        """
        num_kept_waiting = len(self.waiting) + len(self.running) - num_decoding
        most = self.limits.max_mixed_prefill_tokens
        return max(most, most * num_kept_waiting // num_decoding)

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
            self._stop(self.running[-1])
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

    def _decode(
        self,
        sequence: RequestState,
        draft: Callable[[RequestState], list[int]] | None,
        plan: list[_Scheduled],
    ) -> None:
        """Plans one token, and the draft if there are blocks for it without preempting others."""
        if sequence not in self.running:
            return
        sequence.draft = draft(sequence) if draft and not sequence.beams else []
        if not self.cache.has_room(sequence.tables, sequence.num_tokens + len(sequence.draft)):
            sequence.draft = []
        if sequence.draft and not self.states.back_up(sequence.state):
            sequence.draft = []
        count = 1 + len(sequence.draft)
        if self._reserve(sequence, count):
            plan.append((sequence, count, True))

    def _prefill(self, sequence: RequestState, budget: int, plan: list[_Scheduled]) -> int:
        """Plans a chunk of the tokens that are not computed yet; returns its length."""
        computed = sequence.num_computed_tokens
        count = min(sequence.num_pending_tokens, budget)
        count = sequence.state.next_border(computed, computed + count) - computed
        sequence.draft = []
        if count <= 0 or sequence not in self.running or not self._reserve(sequence, count):
            return 0
        if computed + count in sequence.state.borders:
            self.states.save(sequence.state)
        plan.append((sequence, count, count == sequence.num_pending_tokens))
        return count

    def _admit(self, budget: int, plan: list[_Scheduled]) -> None:
        """Starts waiting sequences in their order.

        An encoder's input cannot be split: one that exceeds the budget gets a separate step.
        """
        whole_budget = budget
        while self.waiting and budget > 0 and self._is_admission_due():
            sequence = self.waiting[0]
            num_encoder_tokens = len(sequence.request.encoder_ids)
            if num_encoder_tokens > budget and budget < whole_budget:
                return
            if not self._open(sequence):
                if not self.running:
                    self._unfit.append(self.waiting.popleft())
                    continue
                return
            budget = max(budget - num_encoder_tokens, 1)
            self.waiting.popleft()
            self.running.append(sequence)
            if sequence.request.progress.scheduled is None:
                sequence.request.progress.scheduled = time.monotonic()
                sequence.num_cached_tokens = sequence.num_computed_tokens
                self.cache.count_hit(sequence.num_tokens, sequence.num_computed_tokens)
            budget -= self._prefill(sequence, budget, plan)
            self._steps_since_admission = 0

    def _is_admission_due(self) -> bool:
        limits = self.limits
        has_place = self._num_places() + self.waiting[0].num_places <= limits.max_batch_size
        if not self.running or self._steps_since_admission == 0:
            return has_place
        due = (
            len(self.waiting) >= limits.waiting_served_ratio * len(self.running)
            or self._steps_since_admission > limits.max_waiting_tokens
        )
        return due and has_place

    def _num_places(self) -> int:
        """Sequences that run, or will once the beams of searches have parted."""
        return sum([sequence.num_places for sequence in self.running])

    def _open(self, sequence: RequestState) -> bool:
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
            num_spare=self._num_places() + sequence.num_places - 1,
            num_seen=sequence.num_computed_tokens + self.limits.max_batch_prefill_tokens,
        )  # fmt: skip

    def _reserve(self, sequence: RequestState, count: int) -> bool:
        """Allocates blocks for ``count`` more tokens, if necessary by evicting idle conversations
        and preempting sequences that are due later.

        False: the sequence itself was due last and has been preempted.
        """
        while True:
            try:
                if len(sequence.beams) > 1:
                    sequence.copies += self.cache.own_last(
                        sequence.tables, sequence.num_computed_tokens
                    )
                self.cache.grow(sequence.tables, sequence.num_computed_tokens + count)
            except OutOfBlocks:
                if self.session_cache.evict():
                    continue
                last = last_due(self.running)
                is_own = sequence in last.members
                is_alone = len(last.members) == len(self.running)
                stopped = self._stop(last)
                if is_alone:  # preempting it would start it over forever
                    self.waiting.remove(stopped)
                    self._unfit.append(stopped)
                    return False
                self.num_preemptions += 1
                if is_own:
                    return False
            else:
                return True

    def _stop(self, sequence: RequestState) -> RequestState:
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
