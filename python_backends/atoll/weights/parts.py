"""Which features of a layer one of several ranks holds, and how they are read.

A rank is a process with a GPU of its own that holds a part of every large matrix. Features are
counted in our order ([q; k; v], [gate; up]), whatever the order in the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
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


@dataclass(frozen=True)
class Part:
    """The features of a dimension that a rank holds.

    total: features of the dimension. ranges: first and last + 1 of those held, ascending.
    num_filled: features of zeros behind them, so that every rank holds as many.

    ::

        Part(total=12, ranges=((3, 6), (9, 12)))    0 1 2 [3 4 5] 6 7 8 [9 10 11]
    """

    total: int
    ranges: tuple[tuple[int, int], ...]
    num_filled: int = 0

    @classmethod
    def whole(cls, total: int) -> Part:
        """All features."""
        return cls(total, ((0, total),))

    @classmethod
    def of(cls, features: int | Part) -> Part:
        """A part as it is, a number of features as all of them."""
        return cls.whole(features) if isinstance(features, int) else features

    @classmethod
    def joined(cls, *parts: Part) -> Part:
        """Parts of dimensions that stand one behind the other."""
        ranges: list[tuple[int, int]] = []
        first = 0
        for part in parts:
            ranges += [(first + start, first + stop) for start, stop in part.ranges]
            first += part.total
        is_whole = all(part.is_whole for part in parts)
        return cls.whole(first) if is_whole else cls(first, tuple(ranges))

    def times(self, width: int) -> Part:
        """Of a dimension whose every feature stands for ``width``: heads to features."""
        ranges = tuple((start * width, stop * width) for start, stop in self.ranges)
        return Part(self.total * width, ranges)

    def __len__(self) -> int:
        """Features held, the filled ones included."""
        return sum(stop - start for start, stop in self.ranges) + self.num_filled

    @property
    def is_whole(self) -> bool:
        """Whether it is the dimension as it is."""
        return self.ranges == ((0, self.total),) and not self.num_filled

    @property
    def span(self) -> slice:
        """Of a part that is in one piece, where it is."""
        ((start, stop),) = self.ranges
        return slice(start, stop)

    def indices(self) -> Tensor:
        """The features held, (features,) int64, without the filled ones."""
        return torch.cat([torch.arange(start, stop) for start, stop in self.ranges])


def take(tensors: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Rows of tensors that stand one behind the other, copied; no others are read.

    tensors: (rows, ...) each, mapped from a file. rows: (count,) int64, in the order wanted; what
    follows one another in the files is copied at once.
    """
    if not len(rows):
        return tensors[0][:0].clone()
    breaks = (rows.diff() != 1).nonzero().flatten() + 1
    pieces = []
    for run in rows.tensor_split(breaks):
        start, stop, first = int(run[0]), int(run[-1]) + 1, 0
        for tensor in tensors:
            piece = tensor[max(start - first, 0) : max(stop - first, 0)]
            pieces += [piece] if len(piece) else []
            first += len(tensor)
    return torch.cat(pieces)


def filled(tensor: Tensor, count: int) -> Tensor:
    """With so many rows of zeros behind the others."""
    if not count:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(count, *tensor.shape[1:])])
