"""Linear layers whose weights are packed once, at load, for the machine at hand."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll_kernels import dispatch
from atoll_kernels.activation import gated_activation

SCHEMES = ("dense", "int8", "int4")
# MXFP4, by the OCP Microscaling Formats specification 1.0: what the codes of E2M1 stand for, the
# weights that share a scale, and the largest code of a scale 2^(code - 127) that kernels take.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
MXFP4_GROUP, MXFP4_MAX_SCALE = 32, 240


@dataclass(eq=False)
class PackedLinear(ABC):
    """A weight in the layout that a subclass multiplies by.

    tensors: the weight and, if it is quantized, scales and zeros, in the subclass's layout.
    bias: (out_features,).
    """

    in_features: int
    out_features: int
    tensors: tuple[Tensor, ...]
    bias: Tensor | None

    @property
    @abstractmethod
    def scheme(self) -> str:
        """ "dense" (the weight's dtype), "int8" (one scale per output), "int4" (one scale per
        output and group of inputs), "int8-groups" or "mxfp4" (see the functions that pack them).
        """

    @abstractmethod
    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """See ``linear``."""

    def gated(self, x: Tensor, activation: str) -> Tensor:
        """See ``gated_linear``."""
        return gated_activation(self.forward(x), activation)


def pack_linear(
    weight: Tensor, bias: Tensor | None, scheme: str = "dense", group_size: int = 32
) -> PackedLinear:
    """Packs ``weight`` (out_features, in_features) and ``bias`` (out_features,) for ``linear``.

    The source tensors may be released afterwards. ``group_size`` is used by "int4" alone.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme {scheme!r} is not one of {SCHEMES}")
    result: PackedLinear = dispatch.run("pack_linear", weight, bias, scheme, group_size)
    return result


def pack_int4(
    codes: Tensor,
    zeros: Tensor,
    scales: Tensor,
    groups: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> PackedLinear:
    """Packs a weight that is stored in 4 bits (GPTQ, AWQ), for x of ``dtype``.

    ``weight[n, k] = scales[groups[k], n] * (codes[k, n] - zeros[groups[k], n])``

    Args:
        codes: (in_features, out_features) int32, 0..15. zeros: (num_groups, out_features), 0..16.
        scales: (num_groups, out_features). groups: (in_features,) int64, in any order.

    Without a kernel for 4 bits, the weight is dequantized to ``dtype``.
    """
    result: PackedLinear = dispatch.run("pack_int4", codes, zeros, scales, groups, bias, dtype)
    return result


def pack_int8_groups(
    codes: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> PackedLinear:
    """Packs a weight that is stored in 8 bits with a scale for each group of inputs (GGUF).

    ``weight[n, k] = scales[n, k // size] * codes[n, k]``, ``size`` inputs in a group.

    Args:
        codes: (out_features, in_features) int8. scales: (out_features, num_groups) floats.
        bias: (out_features,). dtype: of x.

    Without a kernel for such groups, the weight is dequantized to ``dtype``.

    Raises:
        ValueError: groups do not divide the inputs.
    """
    if codes.shape[0] != scales.shape[0] or codes.shape[1] % scales.shape[1]:
        raise ValueError(
            f"codes of shape {tuple(codes.shape)} have no groups with scales of shape "
            f"{tuple(scales.shape)}"
        )
    result: PackedLinear = dispatch.run("pack_int8_groups", codes, scales, bias, dtype)
    return result


def pack_mxfp4(
    blocks: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> PackedLinear:
    """Packs a weight that is stored as MXFP4, for x of ``dtype``; it stays at 4.25 bits.

    ``weight[n, 32g + i] = E2M1[code i of blocks[n, g]] * 2^(scales[n, g] - 127)``

    Args:
        blocks: (out_features, in_features / 32, 16) uint8, two codes each, the low nibble first.
        scales: (out_features, in_features / 32) uint8. bias: (out_features,).

    Raises:
        ValueError: shapes do not fit, or a scale exceeds 2^113 (or is 255, which stands for NaN).
    """
    if blocks.shape != (*scales.shape, MXFP4_GROUP // 2):
        raise ValueError(
            f"MXFP4 blocks have shape {tuple(blocks.shape)}; scales of shape "
            f"{tuple(scales.shape)} go with {(*scales.shape, MXFP4_GROUP // 2)}"
        )
    largest = int(scales.max()) if scales.numel() else 0
    if largest > MXFP4_MAX_SCALE:
        raise ValueError(f"an MXFP4 scale has the code {largest}; the limit is {MXFP4_MAX_SCALE}")
    result: PackedLinear = dispatch.run("pack_mxfp4", blocks, scales, bias, dtype)
    return result


def mxfp4_codes(blocks: Tensor) -> Tensor:
    """blocks: (out_features, groups, 16) -> codes (out_features, in_features) uint8, 0..15."""
    return torch.stack((blocks & 15, blocks >> 4), -1).flatten(1)


def linear(x: Tensor, packed: PackedLinear, activation: str | None = None) -> Tensor:
    """``activation(x @ weight.T + bias)`` for x (tokens, in_features); dtype of x."""
    return packed.forward(x, activation)


def gated_linear(x: Tensor, packed: PackedLinear, activation: str) -> Tensor:
    """A gated linear unit: ``gated_activation(linear(x, packed), activation)``.

    ``packed`` has 2n outputs: the gate's n first. Returns (tokens, n); dtype of x. A fused kernel
    rounds only the final result.
    """
    return packed.gated(x, activation)


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric quantization of (out_features, in_features) by output.

    Returns codes (out_features, in_features) int8, and scales (out_features,) float32.
    """
    values = weight.float()
    scales = values.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return (values / scales.unsqueeze(1)).round_().to(torch.int8).contiguous(), scales


def group_order(groups: Tensor, num_groups: int) -> tuple[int, Tensor | None]:
    """Inputs per group, and the order that sorts the inputs by group (None: they are sorted).

    groups: (in_features,) int64. The size is 0 if groups are of unequal sizes.
    """
    size, rest = divmod(len(groups), num_groups)
    order = groups.argsort(stable=True)
    expected = torch.arange(len(groups), device=groups.device) // max(size, 1)
    if rest or not torch.equal(groups[order], expected):
        return 0, None
    return size, None if torch.equal(groups, expected) else order
