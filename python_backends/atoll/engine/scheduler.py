"""Which sequences advance in the next step, and by how many tokens.

There are no prefill and decode phases. Every sequence has tokens and computed tokens, and a step
lets the second catch up with the first: by one token in decoding, by a chunk in a long prompt.
Decoding sequences go first; prompts share the budget of ``max_batch_prefill_tokens``. When the
cache is full, the youngest sequence of the lowest class is preempted (``engine.waiting``): its
blocks are freed and computed again later. The beams of a search are sequences that are scheduled,
preempted and ended together. Several clients share a step (``engine.fair_schedule``).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from atoll.engine.blocks import OutOfBlocks
from atoll.engine.fair_schedule import FairSchedule
from atoll.engine.held_sequences import HeldSequences
from atoll.engine.kv_cache import KVCacheManager
from atoll.engine.limits import EngineLimits
from atoll.engine.plan import StepPlan, planned
from atoll.engine.request import RequestState
from atoll.engine.state_slots import StateSlots

_Scheduled = tuple[RequestState, int, bool]


class Scheduler(HeldSequences):
    """Plans steps. Not thread-safe."""

    def __init__(
        self, cache: KVCacheManager, limits: EngineLimits, states: StateSlots | None = None
    ) -> None:
        """states: None if no layer is recurrent."""
        super().__init__(cache, limits, states)
        self.fair = FairSchedule(limits)
        self.num_preemptions = 0
        self._unfit: list[RequestState] = []
        self._steps_since_admission = 0

    def schedule(self, draft: Callable[[RequestState], list[int]] | None = None) -> StepPlan:
        """Plans the next step; mutates block tables. ``draft`` guesses tokens when decoding."""
        preemptions = self.num_preemptions
        plan: list[_Scheduled] = []
        self.fair.begin(self.running, self.waiting)
        decoding = [s for s in self.running if s.num_pending_tokens == 1]
        in_turn = self.fair.in_turn(decoding)
        for sequence in in_turn:
            self._decode(sequence, draft, plan)
        prompts: list[_Scheduled] = []
        budget = self.limits.max_batch_prefill_tokens
        if plan:
            budget = min(budget, self._mixed_budget(len(decoding)))
        for sequence in [s for s in self.running if s.num_pending_tokens > 1]:
            budget -= self._prefill(sequence, budget, prompts)
        self._steps_since_admission += 1
        if preemptions == self.num_preemptions:
            self._admit(budget, prompts)
        if len(in_turn) < len(decoding):
            before = set(in_turn)
            for sequence in self.fair.others([s for s in decoding if s not in before]):
                self._decode(sequence, draft, plan)
        # A sequence may have been planned, and then preempted for an older one.
        running = set(self.running)
        return [planned(*item) for item in plan + prompts if item[0] in running]

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
        sequence.draft = sequence.draft[: self.fair.left(sequence)]
        self.fair.spend(sequence, len(sequence.draft))
        count = 1 + len(sequence.draft)
        if self._reserve(sequence, count):
            plan.append((sequence, count, True))

    def _prefill(self, sequence: RequestState, budget: int, plan: list[_Scheduled]) -> int:
        """Plans a chunk of the tokens that are not computed yet; returns its length."""
        computed = sequence.num_computed_tokens
        count = min(sequence.num_pending_tokens, budget, self.fair.left(sequence))
        count = sequence.state.next_border(computed, computed + count) - computed
        sequence.draft = []
        if count <= 0 or sequence not in self.running or not self._reserve(sequence, count):
            return 0
        if computed + count in sequence.state.borders:
            self.states.save(sequence.state)
        self.fair.spend(sequence, count, num_rows=1)
        plan.append((sequence, count, count == sequence.num_pending_tokens))
        return count

    def _admit(self, budget: int, plan: list[_Scheduled]) -> None:
        """Starts waiting sequences in their order, by turns of their clients.

        An encoder's input cannot be split: one that exceeds the budget gets a separate step.
        """
        whole_budget, preemptions = budget, self.num_preemptions
        # One that is preempted may be in the plan, and must not come into it again.
        while self.waiting and budget > 0 and preemptions == self.num_preemptions:
            sequence = self.fair.next_waiting(self.waiting, self.running)
            if sequence is None or not self._is_admission_due(sequence):
                return
            num_encoder_tokens = len(sequence.request.encoder_ids)
            if num_encoder_tokens > budget and budget < whole_budget:
                return
            if not self._make_room(sequence):
                if not self.running:
                    self._unfit.append(sequence)
                    self.waiting.remove(sequence)
                    continue
                return
            budget = max(budget - num_encoder_tokens, 1)
            self.fair.spend(sequence, max(num_encoder_tokens - 1, 0))
            self.waiting.remove(sequence)
            self.running.append(sequence)
            if sequence.request.progress.scheduled is None:
                sequence.request.progress.scheduled = time.monotonic()
                sequence.num_cached_tokens = sequence.num_computed_tokens
                self.cache.count_hit(sequence.num_tokens, sequence.num_computed_tokens)
            budget -= self._prefill(sequence, budget, plan)
            self._steps_since_admission = 0

    def _is_admission_due(self, sequence: RequestState) -> bool:
        limits = self.limits
        has_place = self.fair.has_place(sequence, self.running)
        if not self.running or self._steps_since_admission == 0:
            return has_place
        due = (
            len(self.waiting) >= limits.waiting_served_ratio * len(self.running)
            or self._steps_since_admission > limits.max_waiting_tokens
        )
        return due and has_place

    def _make_room(self, sequence: RequestState) -> bool:
        """Opens a waiting sequence, if necessary in place of those of clients that hold more."""
        while not self.open(sequence):
            other = self.fair.in_the_way(sequence, self.running)
            if other is None:
                return False
            self.stop(other)
            self.num_preemptions += 1
        return True

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
                last = self.fair.last_due(self.running)
                is_own = sequence in last.members
                is_alone = len(last.members) == len(self.running)
                stopped = self.stop(last)
                if is_alone:  # preempting it would start it over forever
                    self.waiting.remove(stopped)
                    self._unfit.append(stopped)
                    return False
                self.num_preemptions += 1
                if is_own:
                    return False
            else:
                return True
