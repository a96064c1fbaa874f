"""The slots of recurrent states: which sequence holds which, and snapshots of prefixes.

Recurrent layers keep a sequence's past in a state of constant size, one row (slot) of their
tensors. A state cannot go back: what is to be continued later must be saved when it is there. So a
snapshot, a copy in a slot of its own, is taken at the border of a block, and found by the content
id of that block, which stands for all tokens before the border.

    free  <->  held by a sequence or an idle conversation
    free  <->  snapshot (least recently used first to be overwritten)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from atoll.engine.kv_cache import KVCacheManager, Tables

NO_SLOT = -1


@dataclass
class HeldState:
    """What a sequence holds; each slot may be ``NO_SLOT``.

    slot: its state, of its first ``num_tokens``. source: a snapshot that the next step begins with.
    backup: the state before the draft that the step verifies. saved: where the step's state goes,
    to become a snapshot. borders: numbers of tokens at which a chunk ends for that.
    """

    slot: int = NO_SLOT
    num_tokens: int = 0
    source: int = NO_SLOT
    backup: int = NO_SLOT
    saved: int = NO_SLOT
    borders: tuple[int, ...] = ()

    @property
    def copies(self) -> tuple[tuple[int, int], ...]:
        """(from, to) before the step."""
        pairs = (self.source, self.slot), (self.slot, self.backup)
        return tuple(pair for pair in pairs if NO_SLOT not in pair)

    @property
    def saves(self) -> tuple[tuple[int, int], ...]:
        """(from, to) after the step."""
        return () if self.saved == NO_SLOT else ((self.slot, self.saved),)

    def next_border(self, num_computed: int, num_tokens: int) -> int:
        """Where a chunk from ``num_computed`` to ``num_tokens`` has to end."""
        return min((b for b in self.borders if num_computed < b < num_tokens), default=num_tokens)


class StateSlots:
    """Hands out slots. Not thread-safe. Without slots, no sequence needs one.

    max_snapshots: slots of them that no sequence gets.
    """

    def __init__(self, num_slots: int = 0, max_snapshots: int = 0) -> None:
        assert num_slots == 0 or max_snapshots < num_slots
        self.num_slots, self.max_snapshots = num_slots, max_snapshots
        self._free = list(reversed(range(num_slots)))
        self._snapshots: OrderedDict[Hashable, int] = OrderedDict()  # least recently used first
        self._num_saving = 0

    @property
    def is_used(self) -> bool:
        """Whether the model has recurrent layers."""
        return self.num_slots > 0

    @property
    def num_snapshots(self) -> int:
        """Prefixes that can be continued."""
        return len(self._snapshots)

    @property
    def num_held(self) -> int:
        """Slots of sequences and conversations."""
        return self.num_slots - len(self._free) - self.num_snapshots - self._num_saving

    @property
    def can_hold(self) -> bool:
        """Whether another sequence can have a slot, or needs none."""
        return not self.is_used or self.num_held < self.num_slots - self.max_snapshots

    def has_room(self, held: HeldState) -> bool:
        """Whether a sequence has a slot, or can have one."""
        return held.slot != NO_SLOT or self.can_hold

    def open(self, held: HeldState) -> None:
        """Gives a sequence its slot; there must be room."""
        if self.is_used and held.slot == NO_SLOT:
            held.slot = self._free.pop()

    def back_up(self, held: HeldState) -> bool:
        """Has the next step keep the state before it; False if there is no slot for that."""
        if self.is_used:
            if not self.can_hold:
                return False
            held.backup = self._free.pop()
        return True

    def settle(self, held: HeldState, num_tokens: int, *, is_wrong: bool) -> bool:
        """After a step up to ``num_tokens``. is_wrong: it verified a draft that was wrong.

        Returns whether the state is that of ``num_tokens``; else it is that of before the step.
        """
        held.source = NO_SLOT
        if not self.is_used:
            return True
        if held.backup != NO_SLOT:
            if is_wrong:
                held.slot, held.backup = held.backup, held.slot
            self._free.append(held.backup)
            held.backup = NO_SLOT
        if not is_wrong:
            held.num_tokens = num_tokens
        return not is_wrong

    def save(self, held: HeldState) -> None:
        """Has the next step save its state, in place of the snapshot that was unused longest."""
        if self.num_snapshots + self._num_saving >= self.max_snapshots:
            if not self._snapshots:
                return
            self._free.append(self._snapshots.popitem(last=False)[1])
        held.saved = self._free.pop()
        self._num_saving += 1

    def register(self, held: HeldState, content: Hashable) -> None:
        """Makes a snapshot of what the step has saved; content: id of the block before it."""
        if held.saved == NO_SLOT:
            return
        self._num_saving -= 1
        known = self._snapshots.pop(content, None)
        if known is not None:
            self._free.append(known)
        self._snapshots[content] = held.saved
        held.saved = NO_SLOT

    def go_back(
        self, cache: KVCacheManager, tables: Tables, num_tokens: int, held: HeldState
    ) -> int:
        """Shortens tables of ``num_tokens`` to the longest prefix that has a snapshot, which the
        next step will begin with; returns its tokens."""
        contents, found, size = tables[0].contents, 0, cache.block_size
        for count in range(min(num_tokens // size, len(contents) - 1), 0, -1):
            if contents[count] in self._snapshots:
                found = count * size
                break
        kept = cache.truncate(tables, found)
        if kept < found:  # a window has freed what the next token attends to
            kept = cache.truncate(tables, 0)
        if kept:
            content = contents[kept // size]
            self._snapshots.move_to_end(content)
            held.source, held.num_tokens = self._snapshots[content], kept
        return kept

    def release(self, held: HeldState) -> None:
        """Frees all that is held."""
        if held.saved != NO_SLOT:
            self._num_saving -= 1
        self._free += [x for x in (held.slot, held.backup, held.saved) if x != NO_SLOT]
        held.slot = held.source = held.backup = held.saved = NO_SLOT
        held.num_tokens, held.borders = 0, ()

    def check_integrity(self, held: Iterable[HeldState]) -> None:
        """Asserts that every slot is free, a snapshot, or held once by these."""
        slots = [x for h in held for x in (h.slot, h.backup, h.saved) if x != NO_SLOT]
        slots += [*self._free, *self._snapshots.values()]
        assert sorted(slots) == list(range(self.num_slots)), "a slot is lost or given twice"
        assert self.num_snapshots + self._num_saving <= self.max_snapshots
