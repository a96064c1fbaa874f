"""Decoding steps over buffers at fixed addresses, captured once and replayed.

A step in which every request has one new token runs in the smallest bucket that fits: rows beyond
the requests have length 0 and slot -1, which all kernels skip. On a GPU the launches of each bucket
are captured at load, the largest first, in one pool of memory. On a CPU a bucket's kernels are
recorded when it is first used (``atoll_kernels.cpu.graph_cache``).

    step -> buffers[:bucket] -> model and head -> outputs[:requests]

A captured step must not read a value from the device; ``refusal`` says which models would.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from atoll.layers.batch import Batch, CrossBatch, LayerCache, LayerState
from atoll.layers.linear import Head
from atoll.runner.kv_cache import group_windows
from atoll.runner.model import Decoder
from atoll.runner.step_input import StepInput, Words
from atoll_kernels import dispatch
from atoll_kernels.backends import AttentionSpec, Capabilities, choose
from atoll_kernels.cpu import graph_cache

logger = logging.getLogger(__name__)

# In larger steps the launches are a negligible part of the time.
MAX_SEQUENCES = {"cuda": 256, "cpu": 32}


def buckets(max_batch_size: int, device_type: str = "cuda") -> tuple[int, ...]:
    """Sizes of captured steps, ascending: 1, 2, 4, 8, 16, 24, ... up to the largest batch."""
    largest = min(max_batch_size, MAX_SEQUENCES[device_type])
    sizes = [size for size in (1, 2, 4, *range(8, largest, 8)) if size < largest]
    return (*sizes, largest)


def refusal(model: Any, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a loaded model's steps cannot be captured; None: they can."""
    readers = {type(m).__name__ for m in model.modules() if getattr(m, "reads_on_host", False)}
    if readers:
        return f"{', '.join(sorted(readers))} reads on the host what the device computed"
    if device.type == "cpu":
        # Each rank checks its own recordings, and one that replays must not meet one that does not.
        is_split = any(isinstance(m, Head) and m.shard.is_split for m in model.modules())
        return "several ranks split the model" if is_split else graph_cache.refusal(dtype)
    policy, capabilities = dispatch.policy(), Capabilities.of(device)
    for cache in set(model.cache_specs()):
        value_dim = None if cache.value_width == cache.head_dim else cache.value_width
        spec = AttentionSpec(
            "decode", dtype, cache.head_dim, value_dim=value_dim, latent=cache.values_in_keys
        )
        backend = choose(capabilities, spec, policy).backend
        if backend != "atoll":
            return f"attention by {backend} reads lengths on the host"
    return None


class DecodeGraphs:
    """The buffers of a model's decoding steps, and the graphs over them."""

    def __init__(
        self,
        model: Decoder,
        kv_cache: tuple[LayerCache, ...],
        states: tuple[LayerState, ...],
        device: torch.device,
        max_batch_size: int,
        *,
        num_blocks: int,
        block_size: int,
    ) -> None:
        """Reads and writes ``kv_cache`` and ``states``, which must not be moved."""
        self._model, self._device = model, device
        self._kv_cache, self._states = kv_cache, states
        self.buckets = buckets(max_batch_size, "cpu" if device.type == "cpu" else "cuda")
        max_positions = int(model.config.max_positions)
        has_encoder = getattr(model.config, "decoder_start_token_id", None) is not None
        rows, width = self.buckets[-1], min(-(-max_positions // block_size), num_blocks)
        num_groups = len(group_windows(model.cache_specs()))
        # Ids, positions, and the slots of each group; lengths of texts, prompts, encoder inputs,
        # and the slots of states.
        self._longs = _Mirrored((2 + num_groups, rows), torch.int64, device)
        self._lengths = _Mirrored((4, rows), torch.int32, device)
        self._tables = [_Mirrored((rows, width), torch.int32, device) for _ in range(num_groups)]
        self._cross = _Mirrored((rows, width), torch.int32, device) if has_encoder else None
        self._ends = torch.arange(rows + 1, dtype=torch.int32, device=device)
        self._batches = {size: self._batch(size, max_positions) for size in self.buckets}
        self._outputs: tuple[Tensor, Tensor] | None = None
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._cpu_graphs = (
            graph_cache.CheckedGraphs(self._compute, _are_other, self._states_kept)
            if device.type == "cpu"
            else None
        )

    @property
    def num_captured(self) -> int:
        """Buckets that are replayed."""
        return len(self._graphs) if self._cpu_graphs is None else self._cpu_graphs.num_checked

    def takes(self, step: StepInput) -> bool:
        """Whether it can run a step: each request has one token and samples."""
        count, width = step.num_rows, self._tables[0].host.shape[1]
        widest = step.block_tables.shape[-1]
        if step.cross is not None:
            widest = max(widest, step.cross.block_tables.shape[-1])
        is_decoding = len(step.token_ids) == len(step.sampled_tokens) == count
        return (
            is_decoding and step.encoder is None and count <= self.buckets[-1] and widest <= width
        )

    def run(self, step: StepInput) -> tuple[Tensor, Tensor]:
        """Hidden states and logits of a step; the next call overwrites what this one returns."""
        count = step.num_rows
        bucket = next(size for size in self.buckets if size >= count)
        self._fill(step)
        if self._cpu_graphs is not None:
            hidden, logits = self._cpu_graphs.run(bucket, self._lengths.host[0, :bucket])
            return hidden[:count], logits[:count]
        if bucket in self._graphs:
            self._graphs[bucket].replay()
        else:
            self._step(bucket)
        assert self._outputs is not None
        hidden, logits = self._outputs
        return hidden[:count], logits[:count]

    @torch.inference_mode()
    def capture(self, may_fail: bool = True) -> None:
        """Captures every bucket; if that fails, it is logged and steps are launched one by one.

        Each step runs once before, so that kernels are compiled and lazy state is initialized.

        may_fail: if False, a failure is raised instead.
        """
        current = torch.cuda.current_stream(self._device)
        try:
            self._capture_all(current)
        except Exception:
            # A capture that fails leaves its stream as the current one.
            torch.cuda.set_stream(current)
            self._graphs.clear()
            if not may_fail:
                raise
            logger.warning("decoding runs without CUDA graphs: capture failed", exc_info=True)
        else:
            logger.info("decoding is captured for %s sequences", list(self.buckets))

    def _capture_all(self, current: torch.cuda.Stream) -> None:
        stream, pool = torch.cuda.Stream(self._device), torch.cuda.graph_pool_handle()
        self._clear(0)
        self._upload(0)
        for bucket in reversed(self.buckets):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                self._step(bucket)
            current.wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                self._step(bucket)
            self._graphs[bucket] = graph

    def _compute(self, bucket: int) -> tuple[Tensor, Tensor]:
        """Hidden states and logits."""
        hidden = self._model(self._batches[bucket])
        return hidden, self._model.logits(hidden)

    def _states_kept(self, bucket: int) -> Callable[[], None]:
        """What restores the states that a step is about to change: computing the same step twice
        must give the same, as it does with a cache."""
        slots = self._lengths.device[3, :bucket]
        rows = slots[slots >= 0].long()
        tensors = [tensor for layer in self._states for tensor in layer]
        kept = [tensor[rows] for tensor in tensors]

        def restore() -> None:
            for tensor, old in zip(tensors, kept, strict=True):
                tensor[rows] = old

        return restore

    def _step(self, bucket: int) -> None:
        """What a graph holds."""
        hidden, logits = self._compute(bucket)
        if self._outputs is None:
            rows = self.buckets[-1]
            self._outputs = tuple(  # type: ignore[assignment]
                x.new_empty((rows, x.shape[1])) for x in (hidden, logits)
            )
        assert self._outputs is not None
        # Copied, so that the outputs of the buckets can share the pool's memory.
        for kept, value in zip(self._outputs, (hidden, logits), strict=True):
            kept[:bucket].copy_(value)

    def _batch(self, size: int, max_positions: int) -> Batch:
        """The first rows of the buffers."""
        ids, positions, *slots = self._longs.device[:, :size].unbind()
        texts, prompts, inputs, states = self._lengths.device[:, :size].unbind()
        cross = None if self._cross is None else CrossBatch(self._cross.device[:size], inputs)
        return Batch(
            input_ids=ids,
            positions=positions,
            slot_mappings=tuple(slots),
            cu_seqlens=self._ends[: size + 1],
            seq_lens=texts,
            block_tables=tuple(table.device[:size] for table in self._tables),
            kv_cache=self._kv_cache,
            states=self._states,
            state_slots=states if self._states else None,
            max_position=max_positions - 1,
            prompt_lens=prompts,
            cross=cross,
        )

    def _fill(self, step: StepInput) -> None:
        """Writes a step and its padding into the buffers."""
        count = step.num_rows
        self._clear(count)
        longs, lengths = self._longs.host, self._lengths.host
        longs[0, :count], longs[1, :count], longs[2:, :count] = (
            step.token_ids, step.positions, step.slots
        )  # fmt: skip
        lengths[0, :count], lengths[1, :count] = step.seq_lens, step.prompt_lens
        for target, table in zip(self._tables, step.block_tables, strict=True):
            _write_table(target, table)
        if step.states is not None:
            lengths[3, :count] = step.states.slots
        if self._cross is not None and step.cross is not None:
            lengths[2, :count] = step.cross.seq_lens
            _write_table(self._cross, step.cross.block_tables)
        self._upload(count)

    def _clear(self, count: int) -> None:
        """Makes the rows from ``count`` on padding: kernels read and write nothing for them."""
        self._longs.host[:2, count:], self._longs.host[2:, count:] = 0, -1
        self._lengths.host[:3, count:], self._lengths.host[3, count:] = 0, -1
        self._lengths.host[2] = 0

    def _upload(self, count: int) -> None:
        for mirrored in (self._longs, self._lengths):
            mirrored.upload()
        for mirrored in (*self._tables, *([] if self._cross is None else [self._cross])):
            mirrored.upload(count)


def _are_other(lengths: graph_cache.GraphInputs, recorded: graph_cache.GraphInputs) -> bool:
    """Whether every text's length differs from the recording; padding rows have length 0."""
    used = (lengths > 0) | (recorded > 0)
    return bool((lengths != recorded)[used].all())


class _Mirrored:
    """A tensor on the device and its copy on the host, in pinned memory for asynchronous copies.

    A step's tokens are read before the next step is written, so no copy is overwritten. On a CPU
    they are the same tensor.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self._pinned = torch.zeros(shape, dtype=dtype, pin_memory=device.type == "cuda")
        self.host = self._pinned.numpy()
        is_shared = device.type == "cpu"
        self.device = self._pinned if is_shared else torch.zeros(shape, dtype=dtype, device=device)

    def upload(self, rows: int | None = None) -> None:
        """Copies the first rows, by default all."""
        if self.device is not self._pinned:
            self.device[:rows].copy_(self._pinned[:rows], non_blocking=True)


def _write_table(target: _Mirrored, table: Words) -> None:
    """Entries beyond a row's end may have any value: they are never read."""
    target.host[: len(table), : table.shape[1]] = table
