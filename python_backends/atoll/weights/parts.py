"""Which features of a layer one of several ranks holds, and how they are read.

A rank is a process with a GPU of its own that holds a part of every large matrix. Features are
counted in our order ([q; k; v], [gate; up]), whatever the order in the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Shard:
    """One of ``size`` ranks that split a model; rank counts from 0."""

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank is {self.rank}; of {self.size} ranks it is 0 to size - 1")

    @property
    def is_split(self) -> bool:
        """Whether there are other ranks."""
        return self.size > 1


ONE_RANK = Shard()


class Range(NamedTuple):
    """Features ``start`` to ``stop - 1``, and so many features of zeros behind them."""

    start: int
    stop: int
    num_filled: int = 0


@dataclass(frozen=True)
class Part:
    """The features of a dimension that a rank holds.

    total: features of the dimension. ranges: those held, ascending, and zeros where all ranks must
    hold as many.

    ::

        Part(total=12, ranges=(Range(3, 6), Range(9, 12)))    0 1 2 [3 4 5] 6 7 8 [9 10 11]
    """

    total: int
    ranges: tuple[Range, ...]

    @classmethod
    def whole(cls, total: int) -> Part:
        """All features."""
        return cls(total, (Range(0, total),))

    @classmethod
    def of(cls, features: int | Part) -> Part:
        """A part as it is, a number of features as all of them."""
        return cls.whole(features) if isinstance(features, int) else features

    @classmethod
    def share(cls, total: int, count: int, rank: int) -> Part:
        """The ``count`` features of a rank, where each holds as many: zeros beyond ``total``."""
        start, stop = (min(r * count, total) for r in (rank, rank + 1))
        return cls(total, (Range(start, stop, count - (stop - start)),))

    @classmethod
    def joined(cls, *parts: Part) -> Part:
        """Parts of dimensions that stand one behind the other."""
        ranges: list[Range] = []
        first = 0
        for part in parts:
            ranges += [Range(first + r.start, first + r.stop, r.num_filled) for r in part.ranges]
            first += part.total
        is_whole = all(part.is_whole for part in parts)
        return cls.whole(first) if is_whole else cls(first, tuple(ranges))

    def times(self, width: int) -> Part:
        """Of a dimension whose every feature stands for ``width``: heads to features."""
        ranges = (Range(*(width * number for number in r)) for r in self.ranges)
        return Part(self.total * width, tuple(ranges))

    def __len__(self) -> int:
        """Features held, the zeros included."""
        return sum(r.stop - r.start + r.num_filled for r in self.ranges)

    @property
    def is_whole(self) -> bool:
        """Whether it is the dimension as it is."""
        return self.ranges == (Range(0, self.total),)

    @property
    def span(self) -> slice:
        """Of a part that is in one piece, where it is."""
        ((start, stop, _),) = self.ranges
        return slice(start, stop)

    @property
    def num_filled(self) -> int:
        """Of a part that is in one piece, the zeros behind it."""
        ((_, _, num_filled),) = self.ranges
        return num_filled

    def rows(self, order: Tensor | None = None) -> Tensor:
        """Where the features are, (features,) int64; -1 for zeros.

        order: where in a file each feature of the dimension is, if not at its own place.
        """
        found = []
        for start, stop, num_filled in self.ranges:
            features = torch.arange(start, stop)
            found += [features if order is None else order[features]]
            found += [torch.full((num_filled,), -1)] if num_filled else []
        return torch.cat(found)

    def columns(self, tensor: Tensor) -> Tensor:
        """Of (..., features) those held; zeros where there are none."""
        if self.is_whole:
            return tensor
        held = tensor[..., self.span]
        return F.pad(held, (0, self.num_filled)) if self.num_filled else held


def take(tensors: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Rows of tensors that stand one behind the other, copied; no others are read.

    tensors: (rows, ...) each, mapped from a file. rows: (count,) int64, in the order wanted; what
    follows one another in the files is copied at once. -1 gives zeros.
    """
    pieces = [tensors[0][:0]]
    breaks = (rows.diff() != (rows[:-1] >= 0).long()).nonzero().flatten() + 1
    for run in rows.tensor_split(breaks):
        if not len(run):
            continue
        if int(run[0]) < 0:
            pieces.append(tensors[0].new_zeros(len(run), *tensors[0].shape[1:]))
            continue
        start, stop, first = int(run[0]), int(run[-1]) + 1, 0
        for tensor in tensors:
            pieces.append(tensor[max(start - first, 0) : max(stop - first, 0)])
            first += len(tensor)
    return torch.cat(pieces)
