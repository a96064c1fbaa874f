"""Runs a decoder without the engine: chunks of sequences over a paged cache in scattered blocks."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from atoll.layers import PagedBatch


class PagedRunner:
    """Feeds chunks of sequences to a decoder, its blocks handed out in random order."""

    def __init__(
        self,
        model: Any,
        block_size: int = 4,
        num_blocks: int = 128,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model, self.block_size = model, block_size
        self.tables: dict[str, list[int]] = {}
        self.lengths: dict[str, int] = {}
        spec = model.cache_spec()
        shape = (num_blocks, block_size, spec.num_kv_heads, spec.head_dim)
        # Poisoned: reading a slot that nothing wrote must show.
        self.kv_cache = tuple(
            (torch.full(shape, 7.0, dtype=dtype), torch.full(shape, -9.0, dtype=dtype))
            for _ in range(spec.num_layers)
        )
        self._free = list(range(num_blocks))
        random.Random(0).shuffle(self._free)

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
            starts.append(len(ids))
        width = max(len(self.tables[name]) for name in chunks)
        table = [self.tables[n] + [-1] * (width - len(self.tables[n])) for n in chunks]
        lengths = [self.lengths[n] for n in chunks]
        whole = [max(n, (prompts or {}).get(k, 0)) for k, n in zip(chunks, lengths, strict=True)]
        hidden = self.model(
            PagedBatch(
                input_ids=torch.tensor(ids),
                positions=torch.tensor(positions),
                slot_mapping=torch.tensor(slots),
                cu_seqlens_q=torch.tensor(starts, dtype=torch.int32),
                seq_lens=torch.tensor(lengths, dtype=torch.int32),
                block_table=torch.tensor(table, dtype=torch.int32),
                kv_cache=self.kv_cache,
                max_position=max(positions),
                prompt_lens=torch.tensor(whole, dtype=torch.int32),
            )
        )
        logits = self.model.logits(hidden)
        return {n: logits[starts[i] : starts[i + 1]] for i, n in enumerate(chunks)}
