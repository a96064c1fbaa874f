"""Batches for the recurrent kernels: packed sequences that begin, go on or are padding, and states.

Slots of sequences that begin, and slots that nobody has, hold NaN: neither may reach an output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll_kernels import Past

NUM_SLOTS = 9
# log_decay of tokens: forgets nothing, as models do, forgets (nearly) all, and each of these.
DECAYS = ("none", "usual", "all", "mixed")


class Row(NamedTuple):
    """A sequence: its new tokens, those before them, and its slot (-1: a padded row)."""

    new: int
    past: int = 0
    slot: int = -1


# Chunks of prompts between tokens of decoding and padding; some begin, others go on.
MIXED = (
    Row(1, 7, 3), Row(70, 0, 0), Row(1, 0, 6), Row(1), Row(130, 64, 8), Row(5, 2, 1), Row(16, 0, 4),
)  # fmt: skip
STEP = (Row(1, 7, 3), Row(1, 0, 0), Row(1, 30, 6), Row(1), Row(1, 1, 8), Row(1))


def past_of(rows: Sequence[Row], device: torch.device | str = "cpu") -> Past:
    """Where these sequences begin in a batch."""
    ends = torch.tensor([0, *(row.new for row in rows)]).cumsum(0)
    lengths = torch.tensor([row.new + row.past if row.slot >= 0 else 0 for row in rows])
    slots = torch.tensor([row.slot for row in rows])
    return Past(*(x.int().to(device) for x in (ends, lengths, slots)))


def state_of(rows: Sequence[Row], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """States of which only those are numbers that a sequence goes on from."""
    state = torch.full((NUM_SLOTS, *shape), math.nan)
    for row in rows:
        if row.slot >= 0 and row.past:
            state[row.slot] = torch.randn(*shape)
    return state.to(dtype)


class Delta(NamedTuple):
    """The arguments of ``gated_delta`` but for the state."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    beta: Tensor

    def part(self, first: int, last: int) -> Delta:
        """Some of the tokens."""
        return Delta(*(x[first:last] for x in self))


def delta_of(
    tokens: int, heads: tuple[int, int], dims: tuple[int, int], dtype: torch.dtype,
    decays: str = "usual",
) -> Delta:  # fmt: skip
    """Normalised keys and queries; all are views of wider rows, as of a fused projection."""
    (nk, nv), (dk, dv) = heads, dims
    unit = F.normalize(torch.randn(tokens, 2 * nk, dk), dim=-1).flatten(1)
    fused = torch.cat((unit, torch.randn(tokens, nv * dv + 3)), 1).to(dtype)
    q, k, v, _ = fused.split([nk * dk, nk * dk, nv * dv, 3], dim=1)
    gates = torch.cat((log_decay_of(decays, tokens, nv), torch.rand(tokens, nv)), 1)
    split = (x.unflatten(1, (n, -1)) for x, n in ((q, nk), (k, nk), (v, nv)))
    return Delta(*split, gates[:, :nv], gates[:, nv:])


def log_decay_of(kind: str, tokens: int, heads: int) -> Tensor:
    """(tokens, heads) float32."""
    shape = (tokens, heads)
    kinds = {
        "none": torch.zeros(shape),
        "usual": -torch.rand(shape).pow(4),
        "all": torch.full(shape, -math.inf) if tokens % 2 else torch.full(shape, -1e6),
    }
    if kind != "mixed":
        return kinds[kind]
    kinds["nearly none"] = torch.full(shape, -1e-6)
    choice = torch.randint(len(kinds), shape)
    return torch.stack(list(kinds.values())).gather(0, choice[None])[0]


def repeated_keys(x: Delta) -> Delta:
    """Every token has the first one's key, nothing is forgotten, and beta is 1."""
    key = x.k[:1].expand_as(x.k)
    return x._replace(k=key, log_decay=0 * x.log_decay.clamp(-1), beta=torch.ones_like(x.beta))
