"""What each rank of a split model holds: every feature exactly once, or a refusal by name."""

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.errors import ConfigError
from atoll.layers import parallel
from atoll.layers.parallel import Part, Shard, building

QUICK = settings(deadline=None, derandomize=True, database=None)
SIZES = st.integers(1, 16)


T = TypeVar("T")


def _held(parts: list[Part]) -> Counter[int]:
    return Counter(int(i) for part in parts for i in part.rows() if i >= 0)


def _of_each_rank(size: int, make: Callable[[], T]) -> list[T]:
    found = []
    for rank in range(size):
        with building(Shard(rank, size)):
            found.append(make())
    return found


@QUICK
@given(size=SIZES, count=st.integers(1, 40))
def test_every_feature_is_held_once(size: int, count: int) -> None:
    parts = _of_each_rank(size, lambda: parallel.part(count * size, "features"))
    assert _held(parts) == Counter(range(count * size))
    assert {len(part) for part in parts} == {count}
    assert [part.is_whole for part in parts] == [size == 1] * size


@QUICK
@given(size=SIZES, total=st.integers(1, 400))
def test_every_word_is_held_once(size: int, total: int) -> None:
    """Vocabularies need not be divisible: all ranks hold as many rows, the last ones zeros."""
    parts = _of_each_rank(size, lambda: parallel.vocabulary(total))
    assert _held(parts) == Counter(range(total))
    assert len({len(part) for part in parts}) == 1
    assert size == 1 or len(parts[0]) % 8 == 0


@QUICK
@given(size=SIZES, per_kv=st.integers(1, 12), num_kv_heads=st.integers(1, 24))
def test_heads(size: int, per_kv: int, num_kv_heads: int) -> None:
    """Each rank has the key-value heads of its query heads, and no others."""
    num_heads = per_kv * num_kv_heads
    try:
        found = _of_each_rank(size, lambda: parallel.heads(num_heads, num_kv_heads))
    except ConfigError as error:
        divides = num_kv_heads % size == 0 or size % num_kv_heads == 0
        assert num_heads % size or not divides
        assert f"num_shard is {size}; {num_heads} attention heads" in str(error)
        return
    assert _held([heads.query for heads in found]) == Counter(range(num_heads))
    repeats = max(1, size // num_kv_heads)
    assert set(_held([heads.kv for heads in found]).values()) == {repeats}
    (num_query,), (num_kv,) = ({len(part) for part in parts} for parts in zip(*found, strict=True))
    assert num_heads <= num_query * size <= num_heads * 9 / 8
    for query, kv in found:
        # Kernels give each key-value head of the rank as many query heads.
        owners = [int(kv.rows()[i * num_kv // num_query]) for i in range(num_query)]
        own = [int(i) // per_kv if i >= 0 else None for i in query.rows()]
        assert all(b is None or a == b for a, b in zip(owners, own, strict=True))


@QUICK
@given(size=SIZES, counts=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_joined_dimensions(size: int, counts: list[int]) -> None:
    totals = [count * size for count in counts]
    parts = _of_each_rank(
        size, lambda: Part.joined(*(parallel.part(total, "features") for total in totals))
    )
    assert _held(parts) == Counter(range(sum(totals)))
    wide = [part.times(3) for part in parts]
    assert _held(wide) == Counter(range(3 * sum(totals)))


def test_one_rank_holds_everything_and_sends_nothing() -> None:
    """There is no process group here, so anything that was sent would fail."""
    x = torch.ones(2, 3)
    assert parallel.reduction()(x) is x
    assert parallel.gather(x, parallel.current()) is x
    assert parallel.part(7, "features") == Part.whole(7)
    assert parallel.vocabulary(13) == Part.whole(13)
    assert parallel.heads(6, 2) == (Part.whole(6), Part.whole(2))
    assert parallel.copies_of_heads(6, 2) == 1


def test_refusals_name_what_does_not_fit() -> None:
    with building(Shard(0, 2)):
        with pytest.raises(ConfigError, match="num_shard is 2; 9 attention heads over 3 key-value"):
            parallel.heads(9, 3)
        with pytest.raises(ConfigError, match="num_shard is 2; 7 attention heads cannot"):
            parallel.heads(7, 7)
        with pytest.raises(ConfigError, match="num_shard is 2; 97 inner features cannot"):
            parallel.part(97, "inner features")
    assert not parallel.current().is_split


def test_a_rank_is_one_of_the_size() -> None:
    with pytest.raises(ValueError, match="rank is 2"):
        Shard(2, 2)
