"""An engine's numbers for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """A snapshot: blocks and sequences are current, all else is counted since the start."""

    num_blocks: int
    num_used_blocks: int
    num_cached_blocks: int
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
