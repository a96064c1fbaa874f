"""The block manager alone: sharing, eviction, truncation, and what it asserts."""

import random

import pytest

from atoll.engine.blocks import BlockManager, BlockTable, OutOfBlocks


def _fill(blocks: BlockManager, tokens: list[int], root: str | None = None) -> BlockTable:
    table = BlockTable(root)
    known = blocks.num_known_tokens(table, tokens)
    found = blocks.share_prefix(table, tokens)
    assert found == known
    blocks.grow(table, len(tokens))
    blocks.commit(table, tokens, len(tokens))
    assert found <= len(tokens)
    return table


def test_equal_prefixes_share_blocks() -> None:
    blocks = BlockManager(8, 4)
    first = _fill(blocks, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    second = _fill(blocks, [1, 2, 3, 4, 5, 6, 7, 8, 10])
    assert first.blocks[:2].tolist() == second.blocks[:2].tolist()
    assert first.blocks[2] != second.blocks[2]
    blocks.check_integrity([first, second])
    assert blocks.num_used == 4


def test_the_last_token_is_always_computed() -> None:
    blocks = BlockManager(8, 4)
    blocks.release(_fill(blocks, list(range(8))))
    assert blocks.share_prefix(BlockTable(), list(range(8))) == 4


def test_equal_blocks_after_different_prefixes_are_not_shared() -> None:
    blocks = BlockManager(8, 2)
    _fill(blocks, [1, 1, 5, 5, 9])
    assert blocks.share_prefix(BlockTable(), [2, 2, 5, 5, 9]) == 0


def test_roots_are_apart() -> None:
    blocks = BlockManager(8, 2)
    _fill(blocks, [1, 1, 2], root="adapter")
    assert blocks.share_prefix(BlockTable(), [1, 1, 2]) == 0
    assert blocks.share_prefix(BlockTable("adapter"), [1, 1, 2]) == 2


def test_the_longest_unused_end_is_evicted_first() -> None:
    blocks = BlockManager(4, 2)
    blocks.release(_fill(blocks, [1, 1, 2, 2]))
    blocks.release(_fill(blocks, [3, 3, 4, 4]))
    assert blocks.num_free == 4 and blocks.num_cached == 4
    table = BlockTable()
    blocks.grow(table, 2)
    # The end of the older text goes; its beginning and the newer text stay.
    assert blocks.share_prefix(BlockTable(), [1, 1, 2, 2, 9]) == 2
    assert blocks.share_prefix(BlockTable(), [3, 3, 4, 4, 9]) == 4
    assert blocks.stats.num_evicted == 1


def test_grow_is_all_or_nothing() -> None:
    blocks = BlockManager(3, 4)
    table = BlockTable()
    with pytest.raises(OutOfBlocks):
        blocks.grow(table, 13)
    assert len(table) == 0 and blocks.num_free == 3


def test_truncate_does_not_cut_a_registered_block() -> None:
    blocks = BlockManager(8, 4)
    table = _fill(blocks, list(range(10)))
    assert blocks.truncate(table, 9) == 9
    assert blocks.truncate(table, 7) == 4
    assert len(table) == 1
    blocks.check_integrity([table])


def test_blocks_behind_a_window_are_given_back_once() -> None:
    blocks = BlockManager(8, 2)
    table = _fill(blocks, list(range(9)))
    blocks.release_before(table, 5)
    blocks.release_before(table, 5)
    assert table.blocks[:2].tolist() == [-1, -1] and blocks.num_used == 3
    blocks.check_integrity([table])
    blocks.release(table)
    blocks.check_integrity([])


def test_integrity_check_finds_a_leak() -> None:
    blocks = BlockManager(4, 2)
    table = _fill(blocks, [1, 2, 3])
    with pytest.raises(AssertionError):
        blocks.check_integrity([])
    blocks.check_integrity([table])


@pytest.mark.parametrize("seed", range(5))
def test_random_walk_keeps_its_books(seed: int) -> None:
    """Sequences over a tiny alphabet collide all the time; every table is checked on every step."""
    chance, blocks = random.Random(seed), BlockManager(24, 2)
    live: list[tuple[BlockTable, list[int]]] = []
    for _ in range(1500):
        action = chance.random()
        if action < 0.4:
            tokens = [chance.randrange(2) for _ in range(chance.randrange(1, 12))]
            table = BlockTable()
            blocks.share_prefix(table, tokens)
            live.append((table, tokens))
        elif live and action < 0.8:
            table, tokens = chance.choice(live)
            try:
                blocks.grow(table, len(tokens))
            except OutOfBlocks:
                continue
            blocks.commit(table, tokens, len(tokens))
            tokens.append(chance.randrange(2))
        elif live:
            table, tokens = live.pop(chance.randrange(len(live)))
            blocks.truncate(table, chance.randrange(len(tokens) + 1))
            blocks.release(table)
        blocks.check_integrity(table for table, _ in live)
