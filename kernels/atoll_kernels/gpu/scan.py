"""Mamba's scans on the GPU: Mamba-2's in steps of a few tokens per sequence and prompts in chunks,
Mamba-1's token by token."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from atoll_kernels.gpu import launch
from atoll_kernels.gpu.kernels.channel_scan import channel_scan_kernel
from atoll_kernels.gpu.kernels.scan import scan2_chunk_kernel, scan2_step_kernel
from atoll_kernels.gpu.recurrent import SHORT, block, is_dense, places_of
from atoll_kernels.recurrent import Past

_MAX_STATE_SIZE = 256
# Sizes for which the chunked form has registers: of inputs of 16 bits, and of 32.
_MAX_CHUNKED_STATE_SIZE, _MAX_CHUNKED_WIDE_STATE_SIZE = 128, 64


def selective_scan2(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    state: Tensor | None, past: Past,
) -> Tensor | None:  # fmt: skip
    """See ``atoll_kernels.selective_scan2``."""
    (num_tokens, num_heads, head_dim), (_, num_groups, state_size) = x.shape, B.shape
    num_seqs = len(past.cu_seqlens) - 1
    if x.dtype == torch.float64 or state_size > _MAX_STATE_SIZE or not is_dense(state):
        return None
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if num_tokens == 0 or num_seqs == 0:
        return out
    x, dt, B, C = (t if t.stride(-1) == 1 else t.contiguous() for t in (x, dt, B, C))
    block_k = block(state_size)
    arguments = {
        "out": out, "x": x, "dt": dt, "decay": A, "b": B, "c": C, "skip": A if D is None else D,
        **places_of(state, past, x), "num_heads": num_heads, "x_stride": x.stride(0),
        "x_head_stride": x.stride(1), "dt_stride": dt.stride(0), "b_stride": B.stride(0),
        "b_group_stride": B.stride(1), "c_stride": C.stride(0), "c_group_stride": C.stride(1),
        "head_dim": head_dim, "state_size": state_size, "GROUP": num_heads // num_groups,
        "SKIP": D is not None, "BLOCK_K": block_k,
    }  # fmt: skip
    is_wide = x.dtype == torch.float32
    most = _MAX_CHUNKED_WIDE_STATE_SIZE if is_wide else _MAX_CHUNKED_STATE_SIZE
    if num_tokens <= SHORT * num_seqs or state_size > most:
        config = launch.configuration("scan2-step", f"d{max(block_k, 64)}")
        grid = (num_seqs, num_heads, triton.cdiv(head_dim, config.block_n))
        scan2_step_kernel[grid](**arguments, BLOCK_N=config.block_n, num_warps=config.num_warps)
        return out
    config = launch.configuration("scan2-chunk", f"{launch.width(x.dtype)}-d{max(block_k, 64)}")
    grid = (num_seqs, num_heads, triton.cdiv(head_dim, config.block_n))
    scan2_chunk_kernel[grid](
        **arguments, PRECISION=launch.precision(torch.float32), BLOCK_M=config.block_m,
        BLOCK_N=config.block_n, num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return out


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
    state: Tensor | None, past: Past,
) -> Tensor | None:  # fmt: skip
    """See ``atoll_kernels.selective_scan``."""
    (num_tokens, channels), state_size = x.shape, A.shape[1]
    num_seqs = len(past.cu_seqlens) - 1
    if x.dtype == torch.float64 or state_size > _MAX_STATE_SIZE or not is_dense(state):
        return None
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if num_tokens == 0 or num_seqs == 0:
        return out
    x, dt, B, C = (t if t.stride(-1) == 1 else t.contiguous() for t in (x, dt, B, C))
    config, block_k = launch.configuration("channel-scan", "all"), block(state_size)
    block_n = config.block_n // block_k
    channel_scan_kernel[(num_seqs, triton.cdiv(channels, block_n))](
        out=out, x=x, dt=dt, decay=A.contiguous(), b=B, c=C, skip=D, **places_of(state, past, x),
        channels=channels, x_stride=x.stride(0), dt_stride=dt.stride(0), b_stride=B.stride(0),
        c_stride=C.stride(0), state_size=state_size, BLOCK_N=block_n, BLOCK_K=block_k,
        num_warps=config.num_warps,
    )  # fmt: skip
    return out
