"""AWQ layers in the "gemm" layout: 4-bit codes packed along the output features.

Layout (AutoAWQ, Lin et al. 2023), N output and K input features:

- ``qweight`` (K, N / 8) int32: nibble i of word c, lowest first, is output 8c + ORDER[i].
- ``qzeros`` (G, N / 8) int32 in the same order, stored as they are. ``scales`` (G, N).

W[n, k] = scales[k // group_size, n] * (code - zero)
"""

import torch
from torch import Tensor

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_SLICE = 2048


def unpack(words: Tensor) -> Tensor:
    """Codes (rows, 8 * columns) int32 of (rows, columns) int32, in the order of the outputs."""
    nibble = torch.tensor([ORDER.index(i) for i in range(8)], device=words.device)
    return ((words.unsqueeze(-1) >> (4 * nibble)) & 0xF).flatten(1).int()


def dequantize(
    qweight: Tensor, qzeros: Tensor, scales: Tensor, groups: Tensor, dtype: torch.dtype
) -> Tensor:
    """The weight (N, K) in ``dtype``, computed in float32. groups: (K,) int64."""
    weight = torch.empty(scales.shape[1], len(qweight), dtype=dtype, device=qweight.device)
    zeros = unpack(qzeros)
    for start in range(0, len(weight), _SLICE):
        part = slice(start, min(start + _SLICE, len(weight)))
        codes = unpack(qweight[:, part.start // 8 : part.stop // 8])
        values = scales[:, part].float()[groups] * (codes - zeros[:, part][groups])
        weight[part] = values.t().to(dtype)
    return weight
