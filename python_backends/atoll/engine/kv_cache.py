"""The block managers of a model's groups of layers, as one cache.

Layers with the same attention window form a group with its own blocks. A request has one table per
group; all tables have the same length, and blocks that a group's window has passed are freed. A
prefix hit is as long as the shortest hit of any group.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from atoll.engine.blocks import BlockManager, BlockTable, OutOfBlocks

Tables = tuple[BlockTable, ...]


class KVCacheManager:
    """Hands out blocks of every group together. Not thread-safe.

    windows: for each group, how many tokens a query attends to, itself included; None: all. The
    encoder of an encoder-decoder has its blocks in the first group.
    """

    def __init__(
        self,
        windows: Sequence[int | None],
        num_blocks: int,
        block_size: int,
        prefix_caching: bool = True,
    ) -> None:
        self.windows, self.block_size = tuple(windows), block_size
        self.groups = tuple(BlockManager(num_blocks, block_size, prefix_caching) for _ in windows)

    @property
    def num_blocks(self) -> int:
        """Blocks of each group."""
        return self.groups[0].num_blocks

    def new_tables(self, root: Hashable) -> Tables:
        """Empty tables for a request; its prefixes are shared below ``root``."""
        return tuple(BlockTable(root) for _ in self.groups)

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks needed for ``num_tokens`` in one group."""
        return self.groups[0].num_blocks_for(num_tokens)

    def has_room(
        self,
        tables: Tables,
        num_tokens: int,
        *,
        num_cross_tokens: int = 0,
        num_spare: int = 0,
        num_seen: int | None = None,
    ) -> bool:
        """Whether every group has the blocks still needed for ``num_tokens``, and spare ones.

        num_seen: tokens present before a window frees blocks; beyond them, a group with a window
        needs blocks for the window only. None: no blocks are freed in the meantime.
        """
        num_spare += self.num_blocks_for(num_cross_tokens)
        for window, group, table in zip(self.windows, self.groups, tables, strict=True):
            most = num_tokens
            if window is not None and num_seen is not None:
                most = min(num_tokens, num_seen + window)
            if self.num_blocks_for(most) - len(table) + num_spare > group.num_free:
                return False
        return True

    def grow(self, tables: Tables, num_tokens: int) -> None:
        """Appends blocks until the tables hold ``num_tokens``.

        Raises:
            OutOfBlocks: nothing was appended.
        """
        missing = self.num_blocks_for(num_tokens) - len(tables[0])
        if missing <= 0:
            return
        if any(missing > group.num_free for group in self.groups):
            raise OutOfBlocks
        for group, table in zip(self.groups, tables, strict=True):
            group.grow(table, num_tokens)

    def branch(self, tables: Tables, cross_table: BlockTable) -> tuple[Tables, BlockTable]:
        """Other tables of the same blocks."""
        found = [group.branch(t) for group, t in zip(self.groups, tables, strict=True)]
        return tuple(found), self.groups[0].branch(cross_table)

    def own_last(self, tables: Tables, num_tokens: int) -> tuple[tuple[int, int, int], ...]:
        """Gives tables of ``num_tokens`` a last block of their own, unless it is full or theirs
        alone; returns what is to be copied, as (group, from, to).

        Raises:
            OutOfBlocks: nothing was changed.
        """
        index, is_partial = num_tokens // self.block_size, num_tokens % self.block_size > 0
        if not is_partial or not self.groups[0].is_shared(tables[0], index):
            return ()
        if any(group.num_free == 0 for group in self.groups):
            raise OutOfBlocks
        pairs = zip(self.groups, tables, strict=True)
        return tuple((at, *group.replace(table, index)) for at, (group, table) in enumerate(pairs))

    def grow_cross(self, table: BlockTable, num_tokens: int) -> None:
        """The same for an encoder's tokens."""
        self.groups[0].grow(table, num_tokens)

    def share_prefix(self, tables: Tables, token_ids: Sequence[int]) -> int:
        """Fills empty tables with the longest prefix that every group has; returns its tokens."""
        found = [g.share_prefix(t, token_ids) for g, t in zip(self.groups, tables, strict=True)]
        return self.truncate(tables, min(found))

    def num_known_tokens(self, tables: Tables, token_ids: Sequence[int]) -> int:
        """Tokens of the prefix that ``share_prefix`` would find if windows had freed nothing."""
        groups = zip(self.groups, tables, strict=True)
        return min(group.num_known_tokens(table, token_ids) for group, table in groups)

    def count_hit(self, num_queried_tokens: int, num_hit_tokens: int) -> None:
        """Adds an admitted request to the statistics."""
        self.groups[0].count_hit(num_queried_tokens, num_hit_tokens)

    def commit(self, tables: Tables, token_ids: Sequence[int], num_computed: int) -> None:
        """Registers the blocks that computed tokens have filled, and frees those that no later
        query attends to."""
        for window, group, table in zip(self.windows, self.groups, tables, strict=True):
            group.commit(table, token_ids, num_computed)
            if window is not None:
                # The next query, at position ``num_computed``, attends to ``window`` keys.
                group.release_before(table, num_computed - window + 1)

    def truncate(self, tables: Tables, num_tokens: int) -> int:
        """Frees everything after the first ``num_tokens`` in every group; returns how many tokens
        are kept (see ``BlockManager.truncate``). None are kept if the next query would attend to
        blocks that a window has freed."""
        while True:
            kept = [g.truncate(t, num_tokens) for g, t in zip(self.groups, tables, strict=True)]
            if min(kept) < num_tokens:
                num_tokens = min(kept)
            elif self._can_go_on(tables, num_tokens):
                return num_tokens
            else:
                num_tokens = 0

    def _can_go_on(self, tables: Tables, num_tokens: int) -> bool:
        """Whether every group still has the blocks that the next query attends to."""
        for window, table in zip(self.windows, tables, strict=True):
            first = 0 if window is None else max(num_tokens - window + 1, 0)
            if table.num_released * self.block_size > first and num_tokens:
                return False
        return True

    def release(self, tables: Tables, cross_table: BlockTable | None = None) -> None:
        """Frees all blocks and empties the tables."""
        for group, table in zip(self.groups, tables, strict=True):
            group.release(table)
        if cross_table is not None:
            self.groups[0].release(cross_table)

    def check_integrity(self, held: Sequence[Tables], cross_tables: Sequence[BlockTable]) -> None:
        """Asserts that every group's blocks are used exactly by these tables."""
        for index, group in enumerate(self.groups):
            group.check_integrity([t[index] for t in held] + list(cross_tables) * (index == 0))
        assert all(len(t) == len(tables[0]) for tables in held for t in tables)
