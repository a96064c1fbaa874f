"""The memory of recurrent states: tensors per recurrent layer, a row for each slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from atoll.layers.batch import LayerState, StateSpec
from atoll.runner.kv_cache import zeros
from atoll.runner.step_input import Words


class StateSize(NamedTuple):
    """Slots of every layer's states; num_snapshots: those of them that no sequence gets."""

    num_slots: int = 0
    num_snapshots: int = 0


NO_STATES = StateSize()


def bytes_per_sequence(specs: Sequence[StateSpec], dtype: torch.dtype) -> int:
    """The state of one sequence in all layers."""
    return sum(spec.bytes_per_sequence(dtype) for spec in specs)


def allocate_states(
    specs: Sequence[StateSpec], num_slots: int, dtype: torch.dtype, device: torch.device
) -> tuple[LayerState, ...]:
    """The states of every recurrent layer, (num_slots, *shape) each."""
    return tuple(
        tuple(
            zeros((num_slots, *shape), own or dtype, device)
            for shape, own in zip(spec.shapes, spec.dtypes, strict=True)
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
