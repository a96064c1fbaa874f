"""Tensor parallelism: what of a model the rank that is being built holds, and sums over ranks.

Heads, intermediate features and the vocabulary are divided (Shoeybi et al. 2019, Megatron-LM):
projections into them by outputs, projections out of them by inputs, whose results are partial
sums. Layers cut themselves when they are made inside ``building``; a block adds the partial sums
of all ranks with what ``reduction`` gave it. Outside of ``building``, and with one rank, everything
is whole and nothing is sent.

The ranks' process group is torch.distributed's default one, which the caller has initialised before
the model is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor

from atoll.errors import ConfigError
from atoll.weights.parts import ONE_RANK, Part, Shard
from atoll_kernels import collectives

__all__ = [
    "ONE_RANK", "HeadParts", "Part", "Shard", "building", "copies_of_heads", "current",
    "gather", "heads", "num_made", "part", "reduction", "sketching", "vocabulary",
]  # fmt: skip

# Heads of zeros cost as much as others: at most one for so many.
_MOST_FILLED = 1 / 8
# Vocabulary rows of a rank are a multiple of it, which matrix kernels want.
_VOCABULARY_MULTIPLE = 8

_building: ContextVar[Shard] = ContextVar("shard", default=ONE_RANK)
_sketching: ContextVar[bool] = ContextVar("sketching", default=False)


@contextmanager
def building(shard: Shard) -> Iterator[None]:
    """Layers that are made inside hold the part of this rank."""
    token = _building.set(shard)
    try:
        yield
    finally:
        _building.reset(token)


@contextmanager
def sketching() -> Iterator[None]:
    """Of the experts of a layer, which are all alike, those made inside have the first alone.

    Such a model tells shapes and cannot be loaded. Thousands of experts would take seconds to make.
    """
    token = _sketching.set(True)
    try:
        yield
    finally:
        _sketching.reset(token)


def num_made(num_experts: int) -> int:
    """How many of so many experts are made."""
    return min(num_experts, 1) if _sketching.get() else num_experts


def current() -> Shard:
    """The rank that is being built; the only one outside of ``building``."""
    return _building.get()


class HeadParts(NamedTuple):
    """The heads of a rank. Where there are fewer key-value heads than ranks, several ranks hold
    the same one, and divide the query heads that belong to it.
    """

    query: Part
    kv: Part


def heads(num_heads: int, num_kv_heads: int) -> HeadParts:
    """This rank's share of query and key-value heads.

    Where they do not divide, heads of zeros are added to the last ranks, if these are few: they
    change no number, as the projection out of them is zero as well.

    Raises:
        ConfigError: they cannot be divided over the ranks.
    """
    rank, size = current().rank, current().size
    if num_kv_heads == 1 or num_kv_heads == num_heads:
        # Any number of query heads goes with one, or each with its own.
        num_query = _rounded_up(num_heads, size)
        num_kv = 1 if num_kv_heads == 1 else num_query
    else:
        num_kv = _rounded_up(num_kv_heads, size) if num_kv_heads > size else num_kv_heads
        num_query = num_heads // num_kv_heads * num_kv
    fewer, more = sorted((num_kv, size))
    if num_query % size or more % fewer or num_query - num_heads > num_heads * _MOST_FILLED:
        shown = f"{num_heads} attention heads"
        if num_kv_heads != num_heads:
            shown += f" over {num_kv_heads} key-value heads"
        raise _indivisible(shown)
    repeats = max(1, size // num_kv)
    return HeadParts(
        Part.share(num_heads, num_query // size, rank),
        Part.share(num_kv_heads, num_kv * repeats // size, rank // repeats),
    )


def copies_of_heads(num_heads: int, num_kv_heads: int) -> int:
    """How many ranks hold each key-value head, where ``heads`` divides them."""
    return 1 if num_heads == num_kv_heads else max(1, current().size // num_kv_heads)


def part(total: int, name: str, block: int = 1) -> Part:
    """This rank's share of a dimension; name: what error messages call its features.

    block: features that stay together. Where blocks do not divide, blocks of zeros are added to the
    last ranks, if these are few.

    Raises:
        ConfigError: it cannot be divided over the ranks.
    """
    rank, size = current().rank, current().size
    count = _rounded_up(-(-total // size), block) if block > 1 and size > 1 else total // size
    num_filled = count * size - total
    if num_filled < 0 or num_filled > total * _MOST_FILLED:
        raise _indivisible(f"{total} {name}" + (f" in blocks of {block}" if block > 1 else ""))
    return Part.share(total, count, rank)


def vocabulary(total: int) -> Part:
    """This rank's share of the vocabulary, filled up so that every rank has as many rows."""
    rank, size = current().rank, current().size
    if size == 1:
        return Part.whole(total)
    return Part.share(total, _rounded_up(total, _VOCABULARY_MULTIPLE * size) // size, rank)


def reduction() -> Callable[[Tensor], Tensor]:
    """What makes partial sums (tokens, hidden) whole, in place: the sum over all ranks."""
    return _sum_over_ranks if current().is_split else _unchanged


def gather(x: Tensor, shard: Shard) -> Tensor:
    """(rows, features of this rank) -> (rows, features of all ranks), in their order."""
    if not shard.is_split:
        return x
    every = collectives.all_gather(x.contiguous(), shard.size)
    return every.transpose(0, 1).flatten(1)


def _rounded_up(count: int, divisor: int) -> int:
    return -(-count // divisor) * divisor


def _indivisible(shown: str) -> ConfigError:
    return ConfigError(f"num_shard is {current().size}; {shown} cannot be divided by it")


def _sum_over_ranks(x: Tensor) -> Tensor:
    collectives.all_reduce_(x)
    return x


def _unchanged(x: Tensor) -> Tensor:
    return x
