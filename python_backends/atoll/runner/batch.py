"""Converts a step's arrays to the model's tensors; every array is copied once."""

from __future__ import annotations

import torch

from atoll.layers.batch import Batch, CrossBatch, LayerCache, LayerState, to_tensor
from atoll.runner.step_input import EncoderStep, StepInput


def decoder_batch(
    step: StepInput,
    kv_cache: tuple[LayerCache, ...],
    states: tuple[LayerState, ...],
    device: torch.device,
) -> Batch:
    """The decoder's input."""
    cross = None
    if step.cross is not None:
        cross = CrossBatch(
            to_tensor(step.cross.block_tables, device), to_tensor(step.cross.seq_lens, device)
        )
    return Batch(
        input_ids=to_tensor(step.token_ids, device),
        positions=to_tensor(step.positions, device),
        cu_seqlens=to_tensor(step.cu_seqlens, device),
        max_position=int(step.seq_lens.max()) - 1,
        prompt_lens=to_tensor(step.prompt_lens, device),
        seq_lens=to_tensor(step.seq_lens, device),
        block_tables=to_tensor(step.block_tables, device).unbind(),
        slot_mappings=to_tensor(step.slots, device).unbind(),
        kv_cache=kv_cache,
        states=states,
        state_slots=None if step.states is None else to_tensor(step.states.slots, device),
        cross=cross,
    )


def encoder_batch(
    step: EncoderStep, kv_cache: tuple[LayerCache, ...], device: torch.device
) -> Batch:
    """The encoder's input; its keys and values have separate blocks."""
    return Batch(
        input_ids=to_tensor(step.token_ids, device),
        positions=to_tensor(step.positions, device),
        cu_seqlens=to_tensor(step.cu_seqlens, device),
        max_position=int(step.positions.max()),
        features=None if step.features is None else to_tensor(step.features, device),
        slot_mappings=(to_tensor(step.slots, device),),
        kv_cache=kv_cache,
    )
