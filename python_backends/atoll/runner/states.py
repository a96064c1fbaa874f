"""The memory of recurrent states: tensors per recurrent layer, a row for each slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from atoll.config import Settings
from atoll.layers.batch import LayerState, StateSpec
from atoll.runner.kv_cache import zeros
from atoll.runner.step_input import Words


class StateSize(NamedTuple):
    """Slots of every layer's states; num_snapshots: those of them that no sequence gets.

    dtype: of what is computed in float32, as ``state_dtype`` says.
    """

    num_slots: int = 0
    num_snapshots: int = 0
    dtype: torch.dtype = torch.float32


NO_STATES = StateSize()


def state_dtype(settings: Settings) -> torch.dtype:
    """What ``state_dtype`` says."""
    found: torch.dtype = getattr(torch, settings.state_dtype)
    return found


def bytes_per_sequence(
    specs: Sequence[StateSpec], dtype: torch.dtype, state_dtype: torch.dtype = torch.float32
) -> int:
    """The state of one sequence in all layers."""
    return sum(spec.bytes_per_sequence(dtype, state_dtype) for spec in specs)


def allocate_states(
    specs: Sequence[StateSpec], size: StateSize, dtype: torch.dtype, device: torch.device
) -> tuple[LayerState, ...]:
    """The states of every recurrent layer, (num_slots, *shape) each."""
    return tuple(
        tuple(
            zeros((size.num_slots, *shape), stored, device)
            for shape, stored in zip(spec.shapes, spec.stored_as(dtype, size.dtype), strict=True)
        )
        for spec in specs
    )


def copy_states(states: Sequence[LayerState], pairs: Words) -> None:
    """Copies rows of all tensors; pairs: (n, 2) from slot, to slot. All are read before any is
    written, and none is written twice."""
    if not len(pairs):
        return
    rows = torch.from_numpy(pairs.astype(np.int64))
    for tensor in (tensor for layer in states for tensor in layer):
        source, target = rows.to(tensor.device).unbind(1)
        tensor[target] = tensor[source]
