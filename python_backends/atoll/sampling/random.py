"""Random numbers that depend on the request's seed and the position, and on nothing else.

A counter-based generator needs no state: a token is the same whatever the batch, after preemption,
and whether speculation guessed it or not.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1


def uniform(seed: int, position: int) -> float:
    """A number in (0, 1), never either end: the 48 high bits of SplitMix64 (Steele et al. 2014).

    The seed is mixed before the position is added, so that neighbouring seeds give unrelated
    streams.
    """
    bits = _mix(_mix(seed & _MASK) + (position + 1) * 0x9E3779B97F4A7C15)
    return ((bits >> 16) + 0.5) * 2.0**-48


def _mix(bits: int) -> int:
    bits = (bits + 0x9E3779B97F4A7C15) & _MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return bits ^ (bits >> 31)
