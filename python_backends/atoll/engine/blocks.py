"""The KV cache's blocks: which requests use them, and which hold a prefix that can be shared.

A full block is identified by what precedes it and by its tokens: the key is (content id of the
previous block, token ids). A dict compares keys and not only hashes, so a collision cannot return
wrong keys and values. Blocks without users stay cached and are evicted least recently used first.

    in use (users > 0)  <->  cached, no user (evictable)  ->  free
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RELEASED = -1


class OutOfBlocks(Exception):
    """No block is free and none can be evicted."""


class BlockTable:
    """The blocks of one sequence, in order; ``RELEASED`` where a sliding window has passed.

    root: prefixes are shared only below the same root. contents: the root, then the content ids of
    the committed blocks; the next block's key begins with the last of them.
    """

    def __init__(self, root: Hashable = None) -> None:
        self._blocks: npt.NDArray[np.int32] = np.empty(8, np.int32)
        self._length = 0
        self.contents: list[Hashable] = [("root", root)]
        self.root = root
        self.num_released = 0

    def __len__(self) -> int:
        return self._length

    @property
    def blocks(self) -> npt.NDArray[np.int32]:
        """(len,) int32, a view."""
        return self._blocks[: self._length]

    @property
    def num_committed(self) -> int:
        """Full blocks that are registered for sharing."""
        return len(self.contents) - 1

    def append(self, block: int) -> None:
        """Adds a block at the end."""
        if self._length == len(self._blocks):
            self._blocks = np.concatenate([self._blocks, np.empty_like(self._blocks)])
        self._blocks[self._length] = block
        self._length += 1

    def pop(self) -> int:
        """Takes the last block off."""
        self._length -= 1
        del self.contents[self._length + 1 :]
        return int(self._blocks[self._length])


@dataclass
class CacheStats:
    """Counted since the start; tokens, except for ``num_evicted`` blocks."""

    num_queried_tokens: int = 0
    num_hit_tokens: int = 0
    num_evicted: int = 0


class BlockManager:
    """Hands out blocks, counts their users and finds shared prefixes. Not thread-safe."""

    def __init__(self, num_blocks: int, block_size: int, prefix_caching: bool = True) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.prefix_caching = prefix_caching
        self.stats = CacheStats()
        self._users = [0] * num_blocks
        # Blocks that were freed last are reused first, so that untouched memory stays untouched.
        self._free = list(reversed(range(num_blocks)))
        self._evictable: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._cached: dict[tuple[Hashable, tuple[int, ...]], tuple[int, int]] = {}
        self._keys: dict[int, tuple[Hashable, tuple[int, ...]]] = {}
        self._contents = itertools.count()

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated, evictable ones included."""
        return len(self._free) + len(self._evictable)

    @property
    def num_used(self) -> int:
        """Blocks that sequences hold."""
        return self.num_blocks - self.num_free

    @property
    def num_cached(self) -> int:
        """Blocks that hold a shareable prefix, in use or not."""
        return len(self._keys)

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks needed for ``num_tokens``."""
        return -(-num_tokens // self.block_size)

    def branch(self, table: BlockTable) -> BlockTable:
        """Another table of the same blocks."""
        other = BlockTable(table.root)
        for block in table.blocks.tolist():
            other.append(block)
            if block != RELEASED:
                self._take(block)
        other.contents, other.num_released = list(table.contents), table.num_released
        return other

    def is_shared(self, table: BlockTable, index: int) -> bool:
        """Whether other tables use a block of this one."""
        return self._users[int(table.blocks[index])] > 1

    def replace(self, table: BlockTable, index: int) -> tuple[int, int]:
        """Gives a table a block of its own in place of a shared one; returns both. One must be
        free."""
        shared, own = int(table.blocks[index]), self._allocate()
        table.blocks[index] = own
        self._drop(shared)
        return shared, own

    def share_prefix(self, table: BlockTable, token_ids: Sequence[int]) -> int:
        """Fills an empty table with the cached blocks of the longest known prefix.

        The last token is never included, since its logits have to be computed. Returns the number
        of tokens found; call ``count_hit`` once the sequence is actually admitted.
        """
        assert len(table) == 0, "only a new sequence can take a prefix over"
        if not self.prefix_caching:
            return 0
        limit = (len(token_ids) - 1) // self.block_size
        for index in range(limit):
            start = index * self.block_size
            key = (table.contents[-1], tuple(token_ids[start : start + self.block_size]))
            found = self._cached.get(key)
            if found is None:
                break
            block, content = found
            self._take(block)
            table.append(block)
            table.contents.append(content)
        return len(table) * self.block_size

    def num_known_tokens(self, table: BlockTable, token_ids: Sequence[int]) -> int:
        """Tokens of the prefix that ``share_prefix`` would find for an empty table."""
        content, found = table.contents[-1], 0
        limit = (len(token_ids) - 1) // self.block_size if self.prefix_caching else 0
        for start in range(0, limit * self.block_size, self.block_size):
            known = self._cached.get((content, tuple(token_ids[start : start + self.block_size])))
            if known is None:
                break
            content, found = known[1], start + self.block_size
        return found

    def count_hit(self, num_queried_tokens: int, num_hit_tokens: int) -> None:
        """Adds an admitted sequence to the statistics."""
        self.stats.num_queried_tokens += num_queried_tokens
        self.stats.num_hit_tokens += num_hit_tokens

    def grow(self, table: BlockTable, num_tokens: int) -> None:
        """Appends blocks until the table holds ``num_tokens``.

        Raises:
            OutOfBlocks: nothing was appended.
        """
        missing = self.num_blocks_for(num_tokens) - len(table)
        if missing > self.num_free:
            raise OutOfBlocks
        for _ in range(missing):
            table.append(self._allocate())

    def commit(self, table: BlockTable, token_ids: Sequence[int], num_computed: int) -> None:
        """Registers the blocks that computed tokens have filled, so that others can share them."""
        if not self.prefix_caching:
            return
        while (table.num_committed + 1) * self.block_size <= num_computed:
            start = table.num_committed * self.block_size
            key = (table.contents[-1], tuple(token_ids[start : start + self.block_size]))
            # If another sequence has registered an equal block, its content id is used.
            known = self._cached.get(key)
            if known is None:
                block = int(table.blocks[table.num_committed])
                known = self._cached[key] = (block, next(self._contents))
                self._keys[block] = key
            table.contents.append(known[1])

    def truncate(self, table: BlockTable, num_tokens: int) -> int:
        """Frees everything after the first ``num_tokens``; returns how many tokens are kept.

        Fewer are kept if the cut is inside a registered block, whose tokens must not change.
        """
        if num_tokens < table.num_committed * self.block_size:
            num_tokens -= num_tokens % self.block_size
        if num_tokens < table.num_released * self.block_size:
            num_tokens = 0
        while len(table) > self.num_blocks_for(num_tokens):
            block = table.pop()
            if block != RELEASED:
                self._drop(block)
        table.num_released = min(table.num_released, len(table))
        return num_tokens

    def release(self, table: BlockTable) -> None:
        """Frees all blocks of a table and empties it; its last blocks are evicted first."""
        self.truncate(table, 0)

    def release_before(self, table: BlockTable, num_tokens: int) -> None:
        """Frees the blocks that hold only tokens before position ``num_tokens``."""
        last = min(num_tokens // self.block_size, len(table))
        for index in range(table.num_released, last):
            self._drop(int(table.blocks[index]))
            table.blocks[index] = RELEASED
        table.num_released = max(table.num_released, last)

    def check_integrity(self, tables: Iterable[BlockTable]) -> None:
        """Asserts that every block is in exactly one state and used exactly by ``tables``."""
        users = [0] * self.num_blocks
        for table in tables:
            for block in table.blocks.tolist():
                if block != RELEASED:
                    users[block] += 1
        assert users == self._users, f"users differ: {users} counted, {self._users} kept"
        free, evictable = set(self._free), set(self._evictable)
        assert len(free) == len(self._free) and not free & evictable
        for block in range(self.num_blocks):
            idle = (block in free) + (block in evictable)
            assert idle == (self._users[block] == 0), f"block {block} is lost or given twice"
            assert not (block in free and block in self._keys), f"free block {block} is cached"
            assert not (block in evictable and block not in self._keys)
        assert {b: k for k, (b, _) in self._cached.items()} == self._keys

    def _allocate(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._evictable.popitem(last=False)
            del self._cached[self._keys.pop(block)]
            self.stats.num_evicted += 1
        self._users[block] = 1
        return block

    def _take(self, block: int) -> None:
        self._users[block] += 1
        self._evictable.pop(block, None)

    def _drop(self, block: int) -> None:
        self._users[block] -= 1
        assert self._users[block] >= 0, f"block {block} was released twice"
        if self._users[block] == 0:
            if block in self._keys:
                self._evictable[block] = None
            else:
                self._free.append(block)
