"""The time of a forward pass by its number of tokens, learned from those that were run."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate

# Tokens whose products take as long as reading the weights, where no other size was run yet.
_USUAL_RATIO = 32.0
# How much a pass counts that took less, or more, than is known of its size: others on the machine
# and compilers make single passes slower, nothing makes them faster than they are.
_FASTER, _SLOWER = 0.3, 0.1
# More than this, relative to what is known, counts as this.
_MOST_SLOWER = 2.0
_MOST_TOKENS = 1 << 20


class StepCost:
    """Mean times of passes of 1, 2 to 3, 4 to 7, ... tokens, and a line between each two.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self._means: dict[int, tuple[float, float]] = {}
        # Of the means: tokens in order, and seconds, which do not decrease.
        self._tokens: list[float] = []
        self._seconds: list[float] = []

    def add(self, num_tokens: int, seconds: float) -> None:
        """Counts a pass."""
        size = num_tokens.bit_length()
        tokens, mean = self._means.get(size, (float(num_tokens), seconds))
        seconds = min(seconds, _MOST_SLOWER * mean)
        share = _FASTER if seconds < mean else _SLOWER
        mean += share * (seconds - mean)
        self._means[size] = (tokens + share * (num_tokens - tokens), mean)
        # No pass takes longer than one of more tokens: if it seems so, it was disturbed.
        known = sorted(self._means.values())
        self._tokens = [tokens for tokens, _ in known]
        self._seconds = list(accumulate((mean for _, mean in reversed(known)), min))[::-1]

    def seconds(self, num_tokens: float) -> float:
        """What a pass of so many tokens takes; 0 before the first was counted."""
        if not self._tokens:
            return 0.0
        at = bisect_right(self._tokens, num_tokens)
        if at == 0 or len(self._tokens) == 1:
            share = (_USUAL_RATIO + num_tokens) / (_USUAL_RATIO + self._tokens[0])
            return self._seconds[0] * share
        at = min(at, len(self._tokens) - 1)
        (before, after), (low, high) = self._tokens[at - 1 : at + 1], self._seconds[at - 1 : at + 1]
        return low + (high - low) * (num_tokens - before) / (after - before)

    def tokens(self, seconds: float) -> int:
        """The most tokens of a pass that takes no longer than ``seconds``."""
        return bisect_left(range(_MOST_TOKENS), True, key=lambda n: self.seconds(n) > seconds) - 1
