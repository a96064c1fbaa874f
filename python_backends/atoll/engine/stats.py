"""An engine's numbers for metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atoll.engine.request import RequestState
from atoll.engine.scheduler import Scheduler


@dataclass
class StepCounts:
    """What the engine counts of its steps."""

    num_steps: int = 0
    num_forward_tokens: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
    num_failed_steps: int = 0

    def drafted(self, sequence: RequestState, num_tokens: int, num_accepted: int) -> None:
        """Counts a draft of ``num_tokens``, also for the request if it is from its prediction."""
        self.num_drafted_tokens += num_tokens
        self.num_accepted_tokens += num_accepted
        if sequence.predicts:
            sequence.num_accepted_tokens += num_accepted
            sequence.num_rejected_tokens += num_tokens - num_accepted


@dataclass(frozen=True)
class EngineStats:
    """A snapshot: blocks, states and sequences are current, all else is counted since the start.

    num_used_state_slots: of sequences and conversations; num_state_snapshots: of prefixes.
    """

    num_blocks: int
    num_used_blocks: int
    num_cached_blocks: int
    num_state_slots: int
    num_used_state_slots: int
    num_state_snapshots: int
    num_running: int
    num_waiting: int
    num_kept_sessions: int
    num_steps: int
    num_forward_tokens: int
    num_preemptions: int
    num_evicted_blocks: int
    num_queried_tokens: int
    num_hit_tokens: int
    num_drafted_tokens: int
    num_accepted_tokens: int
    num_failed_steps: int


def read_stats(scheduler: Scheduler, counts: StepCounts) -> EngineStats:
    """Reads counters only; may be called from any thread."""
    groups, states = scheduler.cache.groups, scheduler.states
    return EngineStats(
        num_blocks=sum(group.num_blocks for group in groups),
        num_used_blocks=sum(group.num_used for group in groups),
        num_cached_blocks=sum(group.num_cached for group in groups),
        num_state_slots=states.num_slots,
        num_used_state_slots=states.num_held,
        num_state_snapshots=states.num_snapshots,
        num_running=len(scheduler.running),
        num_waiting=len(scheduler.waiting),
        num_kept_sessions=len(scheduler.session_cache),
        num_steps=counts.num_steps,
        num_forward_tokens=counts.num_forward_tokens,
        num_preemptions=scheduler.num_preemptions,
        num_evicted_blocks=sum(group.stats.num_evicted for group in groups),
        num_queried_tokens=groups[0].stats.num_queried_tokens,
        num_hit_tokens=groups[0].stats.num_hit_tokens,
        num_drafted_tokens=counts.num_drafted_tokens,
        num_accepted_tokens=counts.num_accepted_tokens,
        num_failed_steps=counts.num_failed_steps,
    )


def adapters_in_use(scheduler: Scheduler) -> dict[str, list[str]]:
    """Names of the adapters of running and of waiting requests; may be called from any thread."""
    # Copied at once: the engine's thread changes both.
    running, waiting = tuple(scheduler.running), tuple(scheduler.waiting)
    return {"running_adapters": _adapters(running), "waiting_adapters": _adapters(waiting)}


def _adapters(sequences: Sequence[RequestState]) -> list[str]:
    names = {sequence.request.adapter_id for sequence in sequences}
    return sorted(name for name in names if name is not None)
