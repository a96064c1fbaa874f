"""GPTQ layers: codes packed along the input features, a scale and a zero per group.

Layout (AutoGPTQ, Frantar et al. 2022), N output and K input features, b bits:

- ``qweight`` (K * b / 32, N) int32: bit k*b of column n, counted from the lowest bit of the first
  word, starts the code of input k. With 3 bits, codes cross the words' boundaries.
- ``qzeros`` (G, N * b / 32) int32, packed the same way along N; the first format stores zero - 1.
- ``scales`` (G, N). ``g_idx`` (K,): the group of each input; in act-order files in any order.

W[n, k] = scales[g_idx[k], n] * (code - zero)
"""

import torch
from torch import Tensor

# Output features expanded at a time, which bounds the memory of the intermediate int64 codes.
_SLICE = 2048


def unpack(words: Tensor, bits: int, count: int) -> Tensor:
    """``count`` codes of ``bits`` bits from each column of (words, columns) int32, as int32."""
    first_bit = torch.arange(count, device=words.device) * bits
    word, shift = first_bit // 32, (first_bit % 32).unsqueeze(1)
    unsigned = words.long() & 0xFFFFFFFF
    codes = unsigned[word] >> shift
    if 32 % bits:
        following = unsigned[(word + 1).clamp_max(len(words) - 1)] << (32 - shift)
        codes = torch.where(shift + bits > 32, codes | following, codes)
    return (codes & ((1 << bits) - 1)).int()


def unpack_zeros(qzeros: Tensor, bits: int, zero_offset: int, num_outputs: int) -> Tensor:
    """The codes that stand for zero, (groups, num_outputs) int32."""
    zeros = unpack(qzeros.t(), bits, num_outputs).t()
    # Writers subtract one modulo the width: a stored 15 of four bits means 0, not 16.
    return (zeros + zero_offset) & ((1 << bits) - 1)


def dequantize(
    qweight: Tensor,
    qzeros: Tensor,
    scales: Tensor,
    groups: Tensor,
    bits: int,
    zero_offset: int,
    dtype: torch.dtype,
) -> Tensor:
    """The weight (N, K) in ``dtype``, computed in float32. groups: (K,) int64."""
    (num_inputs,), num_outputs = groups.shape, scales.shape[1]
    zeros = unpack_zeros(qzeros, bits, zero_offset, num_outputs)
    weight = torch.empty(num_outputs, num_inputs, dtype=dtype, device=qweight.device)
    for start in range(0, num_outputs, _SLICE):
        part = slice(start, min(start + _SLICE, num_outputs))
        codes = unpack(qweight[:, part], bits, num_inputs)
        values = scales[:, part].float()[groups] * (codes - zeros[:, part][groups])
        weight[part] = values.t().to(dtype)
    return weight
