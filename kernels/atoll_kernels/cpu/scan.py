"""Mamba's selective state spaces by native kernels, for steps of decoding and chunks of prompts."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll_kernels.cpu.graph import empty
from atoll_kernels.cpu.native import library
from atoll_kernels.cpu.native.arguments import address, are_native
from atoll_kernels.cpu.recurrent import is_native_state, kind, places, row
from atoll_kernels.recurrent import Past


def selective_scan2(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    state: Tensor | None, past: Past,
) -> Tensor | None:  # fmt: skip
    """See ``atoll_kernels.selective_scan2``; float16 is computed as float32."""
    if x.dtype == torch.float16:
        wide = selective_scan2(x.float(), dt, A, B.float(), C.float(), D, state, past)
        return None if wide is None else wide.half()
    native = library()
    if native is None or not are_native(x, B, C) or not is_native_state(state):
        return None
    factors = [A, *([] if D is None else [D])]
    if any(t.dtype != torch.float32 or t.stride(-1) != 1 for t in (dt, *factors)):
        return None
    _, num_heads, head_dim = x.shape
    _, num_groups, state_size = B.shape
    out = empty(x.shape, x.dtype)
    native.selective_scan2(
        x.dtype, x.data_ptr(), dt.data_ptr(), A.data_ptr(), B.data_ptr(), C.data_ptr(), address(D),
        address(state), out.data_ptr(), *places(state, past), *x.stride()[:2], dt.stride(0),
        *B.stride()[:2], *C.stride()[:2], row(state), len(past.cu_seqlens) - 1, num_heads,
        num_groups, head_dim, state_size, kind(state),
    )  # fmt: skip
    return out


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
    state: Tensor | None, past: Past,
) -> Tensor | None:  # fmt: skip
    """See ``atoll_kernels.selective_scan``; float16 is computed as float32."""
    if x.dtype == torch.float16:
        wide = selective_scan(x.float(), dt, A, B.float(), C.float(), D, state, past)
        return None if wide is None else wide.half()
    native = library()
    if native is None or not are_native(x, B, C) or not is_native_state(state):
        return None
    if any(t.dtype != torch.float32 or t.stride(-1) != 1 for t in (dt, A, D)):
        return None
    if not A.is_contiguous():
        return None
    out = empty(x.shape, x.dtype)
    native.selective_scan(
        x.dtype, x.data_ptr(), dt.data_ptr(), A.data_ptr(), B.data_ptr(), C.data_ptr(),
        D.data_ptr(), address(state), out.data_ptr(), *places(state, past), x.stride(0),
        dt.stride(0), B.stride(0), C.stride(0), row(state), len(past.cu_seqlens) - 1, *A.shape,
        kind(state),
    )  # fmt: skip
    return out
