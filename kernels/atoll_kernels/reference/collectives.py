"""Collectives of torch.distributed's default process group."""

import torch.distributed as dist
from torch import Tensor


def all_reduce_(x: Tensor) -> Tensor:
    """Returns x, as a candidate that returns None declines."""
    dist.all_reduce(x)
    return x


def all_gather(x: Tensor, num_ranks: int) -> Tensor:
    out = x.new_empty(num_ranks, *x.shape)
    dist.all_gather_single(out.flatten(0, 1), x)
    return out
