"""Sums and concatenations over the ranks that split a model, as operations of torch.

They use torch.distributed's default process group (NCCL on GPUs, gloo on CPUs). As operations of
torch they are seen by whatever records a step: ``dist.all_reduce`` alone is waited for outside of
the dispatcher, and a recording that repeats it would not wait.
"""

import torch
from torch import Tensor

from atoll_kernels import dispatch

# Not torch.library.custom_op, whose first call imports torch's compiler: 1.6 s, and 9 us a call.
_LIBRARY = torch.library.Library("atoll", "DEF")
_LIBRARY.define("all_reduce_(Tensor(a!) x) -> ()")
_LIBRARY.define("all_gather(Tensor x, int num_ranks) -> Tensor")


def all_reduce_(x: Tensor) -> None:
    """Replaces x, contiguous and of the same shape on every rank, by the sum over all ranks."""
    torch.ops.atoll.all_reduce_(x)


def all_gather(x: Tensor, num_ranks: int) -> Tensor:
    """x of every rank, (num_ranks, *x.shape), in the order of the ranks; x is contiguous."""
    result: Tensor = torch.ops.atoll.all_gather(x, num_ranks)
    return result


def _all_reduce_(x: Tensor) -> None:
    dispatch.run("all_reduce_", x)


def _all_gather(x: Tensor, num_ranks: int) -> Tensor:
    result: Tensor = dispatch.run("all_gather", x, num_ranks)
    return result


_LIBRARY.impl("all_reduce_", _all_reduce_, "CompositeExplicitAutograd")
_LIBRARY.impl("all_gather", _all_gather, "CompositeExplicitAutograd")
