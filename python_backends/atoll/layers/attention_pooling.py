"""Pooling by attention: one learned query sees all tokens of a sequence (Lee et al. 2019)."""

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers.attention import Heads
from atoll.layers.linear import Linear
from atoll.layers.mlp import MLP
from atoll.layers.norm import LayerNorm
from atoll.layers.vision import LearnedVector
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions


class _InProjection(Linear):
    """Some of the three projections that torch's MultiheadAttention has in one matrix."""

    def __init__(self, hidden_size: int, first: int, count: int) -> None:
        """first: 0, 1 or 2, for queries, keys and values. count: projections from it on."""
        super().__init__(hidden_size, count * hidden_size, quantizable=False)
        self.span = slice(first * hidden_size, (first + count) * hidden_size)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads weight and bias; see ``LayerTensors.get`` for the errors."""
        rows, columns = 3 * self.in_features, self.in_features
        weight = group.get("in_proj_weight", (rows, columns))[self.span]
        bias = group.get("in_proj_bias", (rows,))[self.span]
        self._pack(weight, bias, options, is_head=False)


class AttentionPooling(nn.Module):
    """``x = attention(probe)``, then ``x + mlp(norm(x))``, for each sequence."""

    def __init__(
        self, hidden_size: int, heads: Heads, intermediate_size: int, activation: str, eps: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.probe = LearnedVector("probe", (1, 1, hidden_size))
        self.query = _InProjection(hidden_size, 0, 1)
        self.kv = _InProjection(hidden_size, 1, 2)
        self.out = Linear(hidden_size, hidden_size)
        self.norm = LayerNorm(hidden_size, eps)
        self.mlp = MLP(hidden_size, intermediate_size, activation)

    def forward(self, hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
        """hidden: (tokens, hidden), cu_seqlens: (num_seqs + 1,) -> (num_seqs, hidden)."""
        num_seqs, (num_heads, _, head_dim) = len(cu_seqlens) - 1, self.heads
        query = self.query(self.probe.weight[0]).view(1, num_heads, head_dim)
        k, v = self.kv(hidden).view(len(hidden), 2, num_heads, head_dim).unbind(1)
        ends = torch.arange(num_seqs + 1, dtype=torch.int32, device=hidden.device)
        args = kernels.AttentionArgs(head_dim**-0.5, causal=False)
        q = query.repeat(num_seqs, 1, 1)
        x = self.out(kernels.varlen_attention(q, k, v, ends, cu_seqlens, args).flatten(1))
        out: Tensor = x + self.mlp(self.norm(x))
        return out
