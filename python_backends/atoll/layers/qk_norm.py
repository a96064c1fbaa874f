"""Norms of queries and keys that span all heads of a token, or scale each head by its own.

A norm over all heads needs their mean square, of which a rank that holds some of the heads knows a
part: the ranks add their sums, of queries and of keys at once.
"""

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers import parallel
from atoll.layers.norm import LayerNorm, RMSNorm
from atoll.layers.parallel import Part
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions


class HeadLayerNorm(nn.Module):
    """LayerNorm of each head, without bias, with a scale for every feature of every head.

    heads: those of this rank, ``parallel.heads``. is_paired: the file has rotary pairs side by
    side, which are half a head apart here.
    """

    def __init__(self, heads: Part, head_dim: int, eps: float, *, is_paired: bool) -> None:
        super().__init__()
        self.heads, self.head_dim, self.eps, self.is_paired = heads, head_dim, eps, is_paired
        self.hidden_size = len(heads) * head_dim
        self.weight = nn.Parameter(torch.empty(len(heads), head_dim), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (tokens, heads * head_dim) -> the same shape."""
        rows = x.float().reshape(-1, self.head_dim)
        normed, _ = kernels.layer_norm(rows, None, None, self.eps)
        return (normed.view(-1, *self.weight.shape) * self.weight).view_as(x).to(x.dtype)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads the scales; see ``LayerTensors.get`` and ``LayerTensors.bias`` for the errors."""
        weight = group.get("weight", (self.heads, self.head_dim))
        if self.is_paired:
            weight = weight.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1)
        kept = weight.to(options.device, torch.float32)
        self.weight = nn.Parameter(kept, requires_grad=False)
        group.bias(self.heads, is_expected=False)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Norms are never tied."""
        raise AssertionError("a norm cannot be tied")


class SplitNorm(nn.Module):
    """This rank's part of a norm over all heads: RMSNorm, or LayerNorm if ``is_centred``."""

    def __init__(
        self, features: Part, num_copies: int, eps: float, is_centred: bool, has_bias: bool
    ) -> None:
        """num_copies: ranks that hold each of the features."""
        super().__init__()
        self.features, self.eps, self.is_centred = features, eps, is_centred
        self.hidden_size = len(features)
        self.num_counted = features.total * num_copies
        self.reduce = parallel.reduction()
        self.weight = nn.Parameter(torch.empty(len(features)), requires_grad=False)
        self.bias = None
        if has_bias:
            self.bias = nn.Parameter(torch.empty(len(features)), requires_grad=False)

    def shares(self, x: Tensor) -> Tensor:
        """x: (tokens, hidden_size) -> this rank's addend to the mean and to the mean square of all
        features, (tokens, 2) float32."""
        x = x.float()
        return torch.stack([x.sum(1), x.square().sum(1)], 1) / self.num_counted

    def scaled(self, x: Tensor, means: Tensor) -> Tensor:
        """x: (tokens, hidden_size). means: the sum of all ranks' shares."""
        out, variance = x.float(), means[:, 1:]
        if self.is_centred:
            out, variance = out - means[:, :1], variance - means[:, :1].square()
        out = out * torch.rsqrt(variance + self.eps) * self.weight
        return (out if self.bias is None else out + self.bias).to(x.dtype)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads the scale, and the bias that the config promises, of the features held."""
        weight = group.get("weight", (self.features,)).to(options.device, torch.float32)
        self.weight = nn.Parameter(weight, requires_grad=False)
        bias = group.bias(self.features, self.bias is not None)
        self.bias = None
        if bias is not None:
            self.bias = nn.Parameter(bias.to(options.device, torch.float32), requires_grad=False)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Norms are never tied."""
        raise AssertionError("a norm cannot be tied")


QKNorm = LayerNorm | RMSNorm | HeadLayerNorm | SplitNorm


def wide_norms(
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    eps: float,
    *,
    is_centred: bool = False,
    has_bias: bool = False,
) -> tuple[QKNorm, QKNorm]:
    """Norms of queries and of keys over all heads: RMSNorm, or LayerNorm if ``is_centred``."""
    if parallel.current().is_split:
        query, kv = (part.times(head_dim) for part in parallel.heads(num_heads, num_kv_heads))
        num_copies = parallel.copies_of_heads(num_heads, num_kv_heads)
        return (
            SplitNorm(query, 1, eps, is_centred, has_bias),
            SplitNorm(kv, num_copies, eps, is_centred, has_bias),
        )
    widths = num_heads * head_dim, num_kv_heads * head_dim
    if is_centred:
        return LayerNorm(widths[0], eps, has_bias), LayerNorm(widths[1], eps, has_bias)
    return RMSNorm(widths[0], eps), RMSNorm(widths[1], eps)


def normed(q: Tensor, k: Tensor, q_norm: QKNorm, k_norm: QKNorm) -> tuple[Tensor, Tensor]:
    """q, k: (tokens, heads, head_dim), each head or all of a token's together."""
    rows = q.reshape(-1, q_norm.hidden_size), k.reshape(-1, k_norm.hidden_size)
    if isinstance(q_norm, SplitNorm) and isinstance(k_norm, SplitNorm):
        means = torch.stack([q_norm.shares(rows[0]), k_norm.shares(rows[1])])
        means = q_norm.reduce(means)
        q_rows, k_rows = q_norm.scaled(rows[0], means[0]), k_norm.scaled(rows[1], means[1])
    else:
        q_rows, k_rows = q_norm(rows[0]), k_norm(rows[1])
    return q_rows.view_as(q), k_rows.view_as(k)
