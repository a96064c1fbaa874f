"""From the hidden states of packed tokens to one vector per text."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pool(hidden: Tensor, cu_seqlens: Tensor, pooling: str) -> Tensor:
    """One float32 vector per sequence: "cls", "last-token" or "mean".

    Args:
        hidden: (tokens, hidden). cu_seqlens: (num_seqs + 1,) int32.
    """
    starts = cu_seqlens.long()
    if pooling == "cls":
        return hidden[starts[:-1]].float()
    if pooling == "last-token":
        return hidden[starts[1:] - 1].float()
    return torch.segment_reduce(hidden.float(), "mean", lengths=starts.diff(), axis=0)


def normalized(vectors: Tensor) -> Tensor:
    """Every row divided by its length (float32)."""
    return F.normalize(vectors, dim=-1)
