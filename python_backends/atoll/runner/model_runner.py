"""The model, its KV cache, and one forward pass over a step's plan.

Knows tensors and devices; knows neither requests' options nor text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from atoll.engine.request import RequestState
from atoll.engine.scheduler import ScheduledSequence
from atoll.layers.adapted import AdapterSlots
from atoll.layers.batch import LayerCache
from atoll.runner.batch import StepBatch, StepOutput, build_batch, build_encoder_input
from atoll.runner.decode_graphs import DecodeGraphs
from atoll.runner.kv_cache import allocate
from atoll.runner.model import Decoder, EncoderDecoder


class ModelRunner:
    """Runs plans on one device."""

    def __init__(
        self,
        model: Decoder,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.model, self.device, self.dtype = model, device, dtype
        self.num_blocks, self.block_size = num_blocks, block_size
        self.adapters: AdapterSlots | None = None
        self.decode_graphs: DecodeGraphs | None = None
        self._max_batch_size = 0
        self.kv_cache = self._allocate()

    def _allocate(self) -> tuple[LayerCache, ...]:
        specs = self.model.cache_specs()
        return allocate(specs, self.num_blocks, self.block_size, self.dtype, self.device)

    def buffer_decoding(self, max_batch_size: int) -> None:
        """Lets decoding steps of up to so many sequences run over buffers that never move, and
        replays them as graphs or graphs. The adapters must be attached before."""
        if self.adapters is not None:
            self.adapters.assign([None], [1], self.device)
        self._max_batch_size = max_batch_size
        self.decode_graphs = DecodeGraphs(self.model, self.kv_cache, self.device, max_batch_size)
        if self.device.type == "cuda":
            self.decode_graphs.capture()

    def reset(self) -> None:
        """A fresh cache after a failed step, which may have left anything in the old one."""
        if self.device.type == "cuda":
            # Graphs know where the cache is; and the failed step's frames still hold the old one,
            # beside which there may be no room for another.
            for layer in self.kv_cache:
                layer.keys.zero_()
                layer.values.zero_()
            return
        self.kv_cache = ()
        has_steps, self.decode_graphs = self.decode_graphs is not None, None
        self.kv_cache = self._allocate()
        if has_steps:
            # Tapes are cheap to record again; zeros would make all of the cache resident.
            self.buffer_decoding(self._max_batch_size)

    @torch.inference_mode()
    def forward(self, plan: Sequence[ScheduledSequence]) -> StepOutput:
        """Computes the plan's new tokens; mutates the cache."""
        fresh = [item.sequence for item in plan if not item.sequence.is_encoded]
        if fresh:
            self._assign_adapters(fresh, [len(s.request.encoder_ids) for s in fresh])
            model = cast(EncoderDecoder, self.model)
            model.encode(build_encoder_input(fresh, self.kv_cache, self.block_size, self.device))
        self._assign_adapters([i.sequence for i in plan], [i.num_new_tokens for i in plan])
        is_adapted = self.adapters is not None and bool(self.adapters.rows)
        if self.decode_graphs is not None and not is_adapted and self.decode_graphs.takes(plan):
            return self.decode_graphs.run(plan)
        batch: StepBatch = build_batch(plan, self.kv_cache, self.block_size, self.device)
        hidden = self.model(batch.paged)
        return StepOutput(hidden, self.model.logits(hidden[batch.rows]))

    def _assign_adapters(self, sequences: Sequence[RequestState], counts: Sequence[int]) -> None:
        if self.adapters is not None:
            chosen = [sequence.request.adapter_id for sequence in sequences]
            self.adapters.assign(chosen, counts, self.device)
