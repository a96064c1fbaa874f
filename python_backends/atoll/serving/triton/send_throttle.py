"""When the tokens of streams are sent: soon enough to be read along, no oftener than it pays."""

from __future__ import annotations


class SendThrottle:
    """How long sending rests after it has worked: 9 times as long, and 50 ms at most.

    Every response costs the cores that the engine computes on: with 32 streams on two cores, a
    response per token takes a fifth of the tokens. The response of a single stream takes less than
    a tenth of a step, so there every token leaves at once.
    """

    _RESTS, _LONGEST_S = 9.0, 0.05

    def __init__(self) -> None:
        self._until = 0.0

    def worked(self, start: float, end: float) -> None:
        """Times of one round of sending, in seconds."""
        self._until = end + min(self._RESTS * (end - start), self._LONGEST_S)

    def left(self, now: float) -> float:
        """Seconds of rest to go; 0: none."""
        return max(self._until - now, 0.0)
