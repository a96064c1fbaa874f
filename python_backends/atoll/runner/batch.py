"""A step's sequences as the flat batch that the model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atoll.engine.blocks import BlockTable
from atoll.engine.request import RequestState
from atoll.engine.scheduler import ScheduledSequence
from atoll.layers.batch import Batch, CrossBatch, LayerCache

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StepBatch:
    """The model's input, and which of its rows predict a new token.

    rows: (sampled,) int64, rows of the hidden states; ``1 + len(draft)`` for each sequence that
    samples, in the order of the plan.
    """

    paged: Batch
    rows: Tensor


@dataclass(frozen=True)
class StepOutput:
    """hidden: (tokens, hidden) of every new token; logits: (sampled rows, vocab) float32."""

    hidden: Tensor
    logits: Tensor


def build_batch(
    plan: Sequence[ScheduledSequence],
    kv_cache: tuple[LayerCache, ...],
    block_size: int,
    device: torch.device,
) -> StepBatch:
    """Flattens the plan; every array is made on the host and copied once."""
    counts = np.fromiter((item.num_new_tokens for item in plan), np.int64, len(plan))
    computed = np.fromiter(
        (item.sequence.num_computed_tokens for item in plan), np.int64, len(plan)
    )
    cu_seqlens = np.zeros(len(plan) + 1, np.int64)
    np.cumsum(counts, out=cu_seqlens[1:])
    owners = np.repeat(np.arange(len(plan)), counts)
    positions = np.arange(cu_seqlens[-1]) - (cu_seqlens[:-1] - computed)[owners]
    table = _block_table([item.sequence.table for item in plan])
    slots = _slots(table, owners, positions, block_size)
    lengths = computed + counts
    paged = Batch(
        input_ids=_tensor(_input_ids(plan), device),
        positions=_tensor(positions, device),
        slot_mappings=(_tensor(slots, device),),
        cu_seqlens=_tensor(cu_seqlens.astype(np.int32), device),
        seq_lens=_tensor(lengths.astype(np.int32), device),
        block_tables=(_tensor(table, device),),
        kv_cache=kv_cache,
        max_position=int(lengths.max()) - 1,
        prompt_lens=_tensor(_text_lengths(plan), device),
        cross=_cross(plan, device),
    )
    return StepBatch(paged, _tensor(_sampled_rows(plan, cu_seqlens), device))


def build_encoder_input(
    sequences: Sequence[RequestState],
    kv_cache: tuple[LayerCache, ...],
    block_size: int,
    device: torch.device,
) -> Batch:
    """The encoder inputs of new sequences, packed; their blocks are in ``cross_table``."""
    inputs = [sequence.request.encoder_ids for sequence in sequences]
    counts = np.array([len(ids) for ids in inputs], np.int64)
    cu_seqlens = np.zeros(len(inputs) + 1, np.int64)
    np.cumsum(counts, out=cu_seqlens[1:])
    owners = np.repeat(np.arange(len(inputs)), counts)
    positions = np.arange(cu_seqlens[-1]) - cu_seqlens[:-1][owners]
    table = _block_table([sequence.cross_table for sequence in sequences])
    return Batch(
        input_ids=_tensor(np.concatenate(inputs).astype(np.int64), device),
        positions=_tensor(positions, device),
        cu_seqlens=_tensor(cu_seqlens.astype(np.int32), device),
        max_position=int(counts.max()) - 1,
        slot_mappings=(_tensor(_slots(table, owners, positions, block_size), device),),
        kv_cache=kv_cache,
    )


def _cross(plan: Sequence[ScheduledSequence], device: torch.device) -> CrossBatch | None:
    lengths = np.array([len(item.sequence.request.encoder_ids) for item in plan], np.int32)
    if not lengths.any():
        return None
    table = _block_table([item.sequence.cross_table for item in plan])
    return CrossBatch(_tensor(table, device), _tensor(lengths, device))


def _input_ids(plan: Sequence[ScheduledSequence]) -> Ints:
    ids: list[int] = []
    for sequence, count, _ in plan:
        start = sequence.num_computed_tokens
        ids += sequence.token_ids[start : start + count]
        ids += sequence.draft
    return np.array(ids, np.int64)


def _block_table(tables: Sequence[BlockTable]) -> npt.NDArray[np.int32]:
    rows = np.zeros((len(tables), max(len(table) for table in tables)), np.int32)
    for row, table in zip(rows, tables, strict=True):
        row[: len(table)] = table.blocks
    return rows


def _slots(table: npt.NDArray[np.int32], owners: Ints, positions: Ints, block_size: int) -> Ints:
    """Where the tokens at ``positions`` of the sequences ``owners`` go in the cache."""
    slots: Ints = table[owners, positions // block_size].astype(np.int64) * block_size
    slots += positions % block_size
    return slots


def _text_lengths(plan: Sequence[ScheduledSequence]) -> npt.NDArray[np.int32]:
    """Prompt tokens: a chunk of a prompt is rotated for the length of the whole."""
    lengths = (item.sequence.num_prompt_tokens for item in plan)
    return np.fromiter(lengths, np.int32, len(plan))


def _sampled_rows(plan: Sequence[ScheduledSequence], cu_seqlens: Ints) -> Ints:
    ends = cu_seqlens[1:]
    rows: list[int] = []
    for (sequence, _, samples), end in zip(plan, ends.tolist(), strict=True):
        if samples:
            rows += range(end - 1 - len(sequence.draft), end)
    return np.array(rows, np.int64)


def _tensor(values: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device)
