"""Sequences of different lengths, concatenated without padding."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def pack(counts: Ints, computed: Ints | int = 0) -> tuple[Ints, Ints]:
    """The layout of ``counts`` tokens of each sequence, which follow ``computed`` earlier ones.

    Returns:
        (sequences + 1,) where each begins, and (tokens,) the positions in the sequences.
    """
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts, np.arange(starts[-1]) - (starts[:-1] - computed).repeat(counts)
