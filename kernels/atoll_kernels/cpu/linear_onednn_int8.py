"""Linear layers in 8 bits by oneDNN: int8 weights with a scale per output, u8 rows with one each.

``out = activation((codes(x) - zero) @ codes(w).T * row_scale * weight_scale + bias)``

oneDNN multiplies u8 by s8 (for signed activations it has only a reference kernel, a hundred times
slower) and returns float32; row scales, bias and activation are applied afterwards. Weights take a
quarter of float32's memory, and a single row takes the time to read them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS
from atoll_kernels.linear import PackedLinear, quantize_int8

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(eq=False)
class OneDnnInt8(PackedLinear):
    """tensors: codes in oneDNN's layout, scales and zeros. levels: see ``activation_levels``."""

    levels: int
    scheme = "int8"

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """See ``atoll_kernels.linear``."""
        weight, scales, zeros = self.tensors
        rows, row_scales = quantize_rows(x, self.levels)
        products = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, self.levels + 1, weight, scales, zeros, None, 1.0, 0, torch.float32,
            "none", [], "",
        )  # fmt: skip
        out = products.mul_(row_scales)
        out = out if self.bias is None else out.add_(self.bias)
        return (out if activation is None else ACTIVATIONS[activation](out)).to(x.dtype)


def pack(weight: Tensor, bias: Tensor | None) -> PackedLinear | None:
    """Quantizes (out_features, in_features) floats by output; None without oneDNN."""
    if not torch.backends.mkldnn.is_available() or weight.dtype not in _FLOATS:
        return None
    out_features, in_features = weight.shape
    codes, scales = quantize_int8(weight)
    packed = torch.ops.onednn.qlinear_prepack(codes, None)
    zeros = torch.zeros(out_features, dtype=torch.int32)
    bias = None if bias is None else bias.to(torch.float32, copy=True)
    tensors = (packed, scales, zeros)
    return OneDnnInt8(in_features, out_features, tensors, bias, activation_levels())


def activation_levels() -> int:
    """The largest absolute code of an activation.

    Without VNNI, two products are added in 16 bits, which would overflow with larger codes.
    """
    return 127 if torch.cpu._is_vnni_supported() else 63


def quantize_rows(x: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """(codes (tokens, features) u8 around ``levels + 1``, scales (tokens, 1) float32)."""
    scales = x.abs().amax(1, keepdim=True).float().clamp_min_(1e-30).div_(levels)
    return (x / scales).round_().add_(levels + 1).to(torch.uint8), scales
