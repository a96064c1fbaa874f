"""T5's relative position bias: a learned scalar per head and bucket of distances.

Buckets saturate at ``max_distance``, so a table over all distances up to it is exact; it is made
once, at load, and handed to the attention kernels.
"""

import math

import torch
from torch import Tensor, nn

from atoll.layers import parallel
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions


class RelativeBias(nn.Module):
    """The bias of one stack for this rank's heads; its first block owns it, all blocks use it."""

    def __init__(
        self, num_heads: int, num_buckets: int, max_distance: int, bidirectional: bool
    ) -> None:
        super().__init__()
        self.max_distance, self.bidirectional = max_distance, bidirectional
        self.heads = parallel.heads(num_heads, num_heads).query
        shape = (num_buckets, len(self.heads))
        self.weight = nn.Parameter(torch.empty(shape), requires_grad=False)
        self.table: Tensor | None = None

    def forward(self) -> Tensor:
        """(heads, 2 * max_distance + 1) float32, at key position - query position + max."""
        assert self.table is not None, "load() comes first"
        return self.table

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads the buckets and spreads them; see ``LayerTensors.get`` for the errors."""
        weight = group.get("weight", (len(self.weight), self.heads)).to(options.dtype)
        self.weight = nn.Parameter(weight.to(options.device), requires_grad=False)
        distance = torch.arange(-self.max_distance, self.max_distance + 1)
        buckets = bucket(distance, len(weight), self.max_distance, self.bidirectional)
        self.table = weight[buckets].t().float().contiguous().to(options.device)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Biases are never tied."""
        raise AssertionError("a relative bias cannot be tied")


def bucket(distance: Tensor, num_buckets: int, max_distance: int, bidirectional: bool) -> Tensor:
    """Bucket of key position - query position (Raffel et al. 2020), int64.

    Half of the buckets hold one distance each, the rest grow logarithmically up to max_distance;
    bidirectional stacks give half of all to keys that follow.
    """
    first = torch.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        first = (distance > 0).long() * num_buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp_min(0)
    exact = num_buckets // 2
    growth = torch.log(distance.clamp_min(1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (growth * (num_buckets - exact)).long()).clamp_max(num_buckets - 1)
    return first + torch.where(distance < exact, distance, far)
