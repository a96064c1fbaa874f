"""Runs a decoder without the engine: chunks of sequences over a paged cache in scattered blocks."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from devices import DEVICE
from torch import Tensor

from atoll.layers.batch import Batch, CrossBatch
from atoll.runner.kv_cache import allocate, group_windows
from atoll.runner.states import StateSize, allocate_states

_NUM_STATES = 64


class PagedRunner:
    """Feeds chunks of sequences to a decoder, its blocks handed out in random order.

    Groups of layers with windows of their own share the numbers of blocks, not their memory.
    """

    def __init__(
        self,
        model: Any,
        block_size: int = 4,
        num_blocks: int = 128,
        dtype: torch.dtype = torch.float32,
        state_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model, self.block_size = model, block_size
        self.tables: dict[str, list[int]] = {}
        self.lengths: dict[str, int] = {}
        self.num_groups = len(group_windows(model.cache_specs()))
        self.kv_cache = allocate(model.cache_specs(), num_blocks, block_size, dtype, DEVICE)
        # Poisoned: reading a slot that nothing wrote must show.
        for layer in self.kv_cache:
            layer.keys.fill_(7.0)
            layer.values.fill_(-9.0)
        size = StateSize(_NUM_STATES, dtype=state_dtype)
        self.states = allocate_states(model.state_specs(), size, dtype, DEVICE)
        for tensor in (tensor for layer in self.states for tensor in layer):
            tensor.fill_(float("nan"))
        self._free_states = list(range(_NUM_STATES))
        self.state_slots: dict[str, int] = {}
        self._free = list(range(num_blocks))
        random.Random(0).shuffle(self._free)
        random.Random(0).shuffle(self._free_states)
        self.cross_tables: dict[str, list[int]] = {}
        self.cross_lengths: dict[str, int] = {}

    @torch.inference_mode()
    def encode(self, inputs: Mapping[str, Sequence[int]], features: Tensor | None = None) -> None:
        """Runs the encoder of an encoder-decoder for new sequences, packed.

        features: of all of them, in place of the ids.
        """
        ids: list[int] = []
        slots: list[int] = []
        starts = [0]
        for name, tokens in inputs.items():
            count = -(-len(tokens) // self.block_size)
            blocks = self.cross_tables[name] = [self._free.pop() for _ in range(count)]
            self.cross_lengths[name] = len(tokens)
            size = self.block_size
            slots += [blocks[i // size] * size + i % size for i in range(len(tokens))]
            ids += tokens
            starts.append(len(ids))
        positions = [i for tokens in inputs.values() for i in range(len(tokens))]
        batch = Batch(
            _longs(ids), _longs(positions), _ints(starts), max(positions), features=features,
            slot_mappings=(_longs(slots),) * self.num_groups, kv_cache=self.kv_cache,
        )  # fmt: skip
        self.model.encode(batch)

    @torch.inference_mode()
    def step(
        self, chunks: Mapping[str, Sequence[int]], prompts: Mapping[str, int] | None = None
    ) -> dict[str, Tensor]:
        """Runs the next tokens of some sequences; logits (tokens, vocab) of each.

        ``prompts`` gives the lengths of whole prompts, where a chunk is a part of one.
        """
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        starts = [0]
        for name, tokens in chunks.items():
            first, blocks = self.lengths.get(name, 0), self.tables.setdefault(name, [])
            for position in range(first, first + len(tokens)):
                block, offset = divmod(position, self.block_size)
                if block == len(blocks):
                    blocks.append(self._free.pop())
                slots.append(blocks[block] * self.block_size + offset)
                positions.append(position)
            ids += tokens
            self.lengths[name] = first + len(tokens)
            if self.states and name not in self.state_slots:
                self.state_slots[name] = self._free_states.pop()
            starts.append(len(ids))
        cross = None
        if self.cross_tables:
            encoded = _ints([self.cross_lengths[n] for n in chunks])
            cross = CrossBatch(_table([self.cross_tables[n] for n in chunks]), encoded)
        lengths = [self.lengths[n] for n in chunks]
        whole = [max(n, (prompts or {}).get(k, 0)) for k, n in zip(chunks, lengths, strict=True)]
        hidden = self.model(
            Batch(
                input_ids=_longs(ids),
                positions=_longs(positions),
                slot_mappings=(_longs(slots),) * self.num_groups,
                cu_seqlens=_ints(starts),
                seq_lens=_ints(lengths),
                block_tables=(_table([self.tables[n] for n in chunks]),) * self.num_groups,
                kv_cache=self.kv_cache,
                states=self.states,
                state_slots=_ints([self.state_slots[n] for n in chunks]) if self.states else None,
                max_position=max(positions),
                prompt_lens=_ints(whole),
                cross=cross,
            )
        )
        logits = self.model.logits(hidden).cpu()
        return {n: logits[starts[i] : starts[i + 1]] for i, n in enumerate(chunks)}


def _table(rows: list[list[int]]) -> Tensor:
    """Block tables of unequal length, padded with -1, (rows, blocks) int32."""
    width = max(len(row) for row in rows)
    padded = [row + [-1] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.int32, device=DEVICE)


def _longs(values: list[int]) -> Tensor:
    return torch.tensor(values, device=DEVICE)


def _ints(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)
