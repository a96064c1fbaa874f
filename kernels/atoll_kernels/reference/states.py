"""The rows of a state tensor that the sequences of a batch begin with and leave behind."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from atoll_kernels.recurrent import Past

Sequence = tuple[slice, Tensor, Callable[[Tensor], None]]


def is_step(num_tokens: int, past: Past) -> bool:
    """Whether every sequence has one token and a slot, or is padding."""
    return past.slots is not None and num_tokens == len(past.slots)


def first_states(state: Tensor, past: Past) -> Tensor:
    """(num_seqs, *shape): what the sequences of a step begin with, 0 for new ones and padding."""
    assert past.slots is not None and past.seq_lens is not None
    found = state.index_select(0, past.slots.clamp_min(0).long())
    is_known = ((past.seq_lens > 1) & (past.slots >= 0)).view(-1, *[1] * (state.ndim - 1))
    return torch.where(is_known, found, 0)


def keep_states(state: Tensor, past: Past, new: Tensor) -> None:
    """Writes what a step leaves, (num_seqs, *shape), without reading a value on the host."""
    assert past.slots is not None
    is_used = past.slots >= 0
    # Padding repeats what the first used row writes: the order of equal writes does not matter.
    source = torch.where(
        is_used, torch.arange(len(is_used), device=state.device), is_used.int().argmax()
    )
    slots = past.slots.index_select(0, source).clamp_min(0).long()
    values = new.index_select(0, source).to(state.dtype)
    values = torch.where(is_used.any(), values, state.index_select(0, slots))
    state[slots] = values


def skip_padding(out: Tensor, past: Past) -> Tensor:
    """A step's output, 0 for padded rows."""
    assert past.slots is not None
    is_used = (past.slots >= 0).view(-1, *[1] * (out.ndim - 1))
    return torch.where(is_used, out, 0)


def sequences(zero: Tensor, state: Tensor | None, past: Past) -> Iterator[Sequence]:
    """For each sequence its tokens, the state it begins with, and what keeps the one it leaves.

    zero: a state of a sequence that begins. Padded rows are left out.
    """
    starts = past.cu_seqlens.tolist()
    lengths = None if past.seq_lens is None else past.seq_lens.tolist()
    slots = None if past.slots is None else past.slots.tolist()
    for at, (start, end) in enumerate(zip(starts, starts[1:], strict=False)):
        rows = slice(start, end)
        if state is None or lengths is None or slots is None:
            yield rows, zero, _forget
        elif slots[at] >= 0:
            kept = state[slots[at]]
            yield rows, (kept if lengths[at] > end - start else zero), partial(_copy, kept)


def _copy(kept: Tensor, new: Tensor) -> None:
    kept.copy_(new)


def _forget(_: Tensor) -> None:
    """Without a cache."""
