"""Converts a step's arrays to the model's tensors; every array is copied once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atoll.layers.batch import Batch, CrossBatch, LayerCache
from atoll.runner.step_input import EncoderStep, StepInput


def decoder_batch(step: StepInput, kv_cache: tuple[LayerCache, ...], device: torch.device) -> Batch:
    """The decoder's input."""
    cross = None
    if step.cross is not None:
        cross = CrossBatch(
            _tensor(step.cross.block_tables, device), _tensor(step.cross.seq_lens, device)
        )
    return Batch(
        input_ids=_tensor(step.token_ids, device),
        positions=_tensor(step.positions, device),
        cu_seqlens=_tensor(step.cu_seqlens, device),
        max_position=int(step.seq_lens.max()) - 1,
        prompt_lens=_tensor(step.prompt_lens, device),
        seq_lens=_tensor(step.seq_lens, device),
        block_tables=_tensor(step.block_tables, device).unbind(),
        slot_mappings=_tensor(step.slots, device).unbind(),
        kv_cache=kv_cache,
        cross=cross,
    )


def encoder_batch(
    step: EncoderStep, kv_cache: tuple[LayerCache, ...], device: torch.device
) -> Batch:
    """The encoder's input; its keys and values have separate blocks."""
    return Batch(
        input_ids=_tensor(step.token_ids, device),
        positions=_tensor(step.positions, device),
        cu_seqlens=_tensor(step.cu_seqlens, device),
        max_position=int(step.positions.max()),
        slot_mappings=(_tensor(step.slots, device),),
        kv_cache=kv_cache,
    )


def _tensor(values: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    if not values.flags.writeable:  # torch warns about tensors that share read-only arrays
        values = values.copy()
    return torch.from_numpy(values).to(device)
