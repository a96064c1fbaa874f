"""Linear layers of a single row; what holds their weights decides how.

8-bit weights are not here: converting them takes as long as reading them, on either kind of core.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from atoll_kernels.gpu import launch
from atoll_kernels.gpu.kernels.activation import CODES
from atoll_kernels.gpu.kernels.gemv import gemv_int4_kernel, gemv_kernel
from atoll_kernels.gpu.kernels.matmul import add_splits_kernel
from atoll_kernels.linear import PackedLinear

_BUCKETS = {"torch": "dense", "gpu-int4": "int4"}
_MAX_SPLITS = 16
_ADD_BLOCK = 512
# Programs for each processor: they wait for memory, and more of them keep more loads in flight.
_WAVES = 4


def gemv(x: Tensor, packed: PackedLinear, activation: str | None) -> Tensor | None:
    """``linear`` for x (1, in_features); declines what is not its own: more rows, other layouts."""
    if packed.layout not in _BUCKETS or x.shape[0] != 1 or x.dtype == torch.float64:
        return None
    if x.stride(-1) != 1 or not packed.tensors[0].is_contiguous():
        return None
    if activation is not None and activation not in CODES:
        return None
    out = torch.empty((1, packed.out_features), dtype=x.dtype, device=x.device)
    config = launch.configuration("gemv", _BUCKETS[packed.layout])
    bias = out if packed.bias is None else packed.bias
    flags = {"BIAS": packed.bias is not None, "CODE": CODES[activation] if activation else 0}
    if packed.layout == "torch":
        gemv_kernel[(triton.cdiv(packed.out_features, config.block_n),)](
            out, x, packed.tensors[0], bias, packed.out_features, packed.in_features, **flags,
            BLOCK_N=config.block_n, BLOCK_K=config.block_k, num_warps=config.num_warps,
        )  # fmt: skip
    else:
        _int4(out, x, packed, bias, config, flags)
    return out


def _int4(
    out: Tensor, x: Tensor, packed: PackedLinear, bias: Tensor, config: launch.Launch,
    flags: dict[str, int],
) -> None:  # fmt: skip
    """The inputs are split among programs where the columns alone do not fill the card."""
    num_columns, num_inputs = packed.out_features, packed.in_features
    words, scales, zeros = packed.tensors
    group, order = packed.extra["group"], packed.extra["order"]
    depth = config.block_k
    while group % depth:
        depth //= 2
    blocks = triton.cdiv(num_columns, config.block_n)
    wanted = _WAVES * launch.num_processors() // blocks
    splits = max(1, min(wanted, num_inputs // depth // 4, _MAX_SPLITS))
    target, last = out, flags
    if splits > 1:
        target = torch.empty((splits, num_columns), dtype=torch.float32, device=x.device)
        last = {"BIAS": False, "CODE": 0}
    gemv_int4_kernel[(blocks, splits)](
        target, x, words, scales, zeros, words if order is None else order, bias, num_columns,
        num_inputs, group, ORDER=order is not None, **last, SPLITS=splits, BLOCK_N=config.block_n,
        BLOCK_K=depth, num_warps=config.num_warps,
    )  # fmt: skip
    if splits > 1:
        add_splits_kernel[(1, triton.cdiv(num_columns, _ADD_BLOCK))](
            out, target, bias, 1, num_columns, SPLITS=splits, **flags, BLOCK=_ADD_BLOCK,
            num_warps=4,
        )  # fmt: skip
