"""What recurrent layers read of a batch: where its sequences begin, and their states."""

from atoll.layers.batch import Batch, LayerState
from atoll_kernels import Past


def past(batch: Batch) -> Past:
    """Where the sequences begin; without a cache, all at zero."""
    assert batch.shared is None and batch.attended is None, "a state cannot be shared or skipped"
    if batch.state_slots is None:
        return Past(batch.cu_seqlens)
    return Past(batch.cu_seqlens, batch.seq_lens, batch.state_slots)


def state(batch: Batch, index: int) -> LayerState | None:
    """The tensors of a layer, by its number among the recurrent ones; None without a cache."""
    return None if batch.state_slots is None else batch.states[index]
