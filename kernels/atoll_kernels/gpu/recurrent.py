"""Recurrent layers on the GPU: steps of a few tokens per sequence, and prompts in chunks."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from atoll_kernels.gpu import launch
from atoll_kernels.gpu.kernels.causal_conv import causal_conv_kernel
from atoll_kernels.gpu.kernels.gated_delta import (
    gated_delta_products_kernel,
    gated_delta_scan_kernel,
    gated_delta_step_kernel,
)
from atoll_kernels.recurrent import Past

_MAX_KEY_DIM = 256
# Of keys of 2 and of 4 bytes: the chunked form has no registers for more.
_MAX_CHUNKED_KEY_DIM = {2: 128, 4: 64}
# Rows of a state in one product of the chunked form.
_MAX_ROWS = 64
# Up to this mean number of tokens, a sequence is computed token by token.
SHORT = 4


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, past: Past,
    activation: str | None = None,
) -> Tensor | None:  # fmt: skip
    """See ``atoll_kernels.causal_conv``."""
    (num_tokens, channels), width = x.shape, weight.shape[1]
    if x.dtype == torch.float64 or x.stride(1) != 1 or not is_dense(state):
        return None
    if activation not in (None, "silu") or not weight.is_contiguous():
        return None
    num_seqs = len(past.cu_seqlens) - 1
    out = torch.empty((num_tokens, channels), dtype=x.dtype, device=x.device)
    if num_tokens == 0 or num_seqs == 0:
        return out
    config = launch.configuration("conv", _phase(num_tokens, num_seqs))
    grid = (num_tokens // config.block_m + num_seqs, triton.cdiv(channels, config.block_n))
    causal_conv_kernel[grid](
        out=out, x=x, weight=weight, bias=weight if bias is None else bias,
        **places_of(state, past, x), num_seqs=num_seqs, channels=channels, x_stride=x.stride(0),
        BIAS=bias is not None, SILU=activation is not None, WIDTH=width, BLOCK_M=config.block_m,
        BLOCK_N=config.block_n, num_warps=config.num_warps,
    )  # fmt: skip
    return out


def gated_delta(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor | None,
    past: Past,
) -> Tensor | None:  # fmt: skip
    """See ``atoll_kernels.gated_delta``."""
    key_dim, num_tokens, num_seqs = k.shape[2], len(v), len(past.cu_seqlens) - 1
    if v.dtype == torch.float64 or key_dim > _MAX_KEY_DIM or not is_dense(state):
        return None
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    if num_tokens == 0 or num_seqs == 0:
        return out
    q, k, v, log_decay, beta = (
        x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v, log_decay, beta)
    )
    is_short = num_tokens <= SHORT * num_seqs or key_dim > _MAX_CHUNKED_KEY_DIM[k.itemsize]
    run = _step if is_short else _chunks
    run(out, q, k, v, log_decay, beta, state, past)
    return out


def _step(
    out: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor,
    state: Tensor | None, past: Past,
) -> None:  # fmt: skip
    _, num_heads, value_dim = v.shape
    block_k = block(k.shape[2])
    config = launch.configuration("delta-step", f"d{max(block_k, 64)}")
    grid = (len(past.cu_seqlens) - 1, num_heads, triton.cdiv(value_dim, config.block_n))
    gated_delta_step_kernel[grid](
        out=out, v=v, beta=beta, **_inputs(q, k, log_decay, num_heads), **places_of(state, past, v),
        v_stride=v.stride(0), v_head_stride=v.stride(1), beta_stride=beta.stride(0),
        value_dim=value_dim, BLOCK_N=config.block_n, BLOCK_K=block_k, num_warps=config.num_warps,
    )  # fmt: skip


def _chunks(
    out: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor,
    state: Tensor | None, past: Past,
) -> None:  # fmt: skip
    num_tokens, num_heads, value_dim = v.shape
    num_seqs, block_k = len(past.cu_seqlens) - 1, block(k.shape[2])
    config = launch.configuration("delta-chunk", f"d{max(block_k, 64)}")
    num_tiles, size = num_tokens // config.block_m + num_seqs, config.block_m
    squares = torch.empty(
        (2, num_tiles, num_heads, size, size), dtype=torch.float32, device=v.device
    )
    inverses, products = squares
    inputs, places = _inputs(q, k, log_decay, num_heads), places_of(state, past, v)
    precision, part = launch.precision(torch.float32), min(block_k, _MAX_ROWS)
    gated_delta_products_kernel[(num_tiles, num_heads)](
        inverses=inverses, products=products, beta=beta, **inputs, cu_seqlens=past.cu_seqlens,
        slots=places["slots"], num_seqs=num_seqs, beta_stride=beta.stride(0),
        STATE=places["STATE"], PRECISION=launch.precision(k.dtype), BLOCK_M=size, BLOCK_K=block_k,
        num_warps=config.num_warps,
    )  # fmt: skip
    grid = (num_seqs, num_heads, triton.cdiv(value_dim, config.block_n))
    gated_delta_scan_kernel[grid](
        out=out, inverses=inverses, products=products, v=v, **inputs, **places,
        v_stride=v.stride(0), v_head_stride=v.stride(1), value_dim=value_dim,
        HALVES=block_k // part, PRECISION=precision, BLOCK_M=size, BLOCK_N=config.block_n,
        BLOCK_K=part, num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip


def _inputs(q: Tensor, k: Tensor, log_decay: Tensor, num_heads: int) -> dict[str, object]:
    """The arguments that all three kernels have."""
    return {
        "q": q, "k": k, "log_decay": log_decay, "num_heads": num_heads, "key_dim": k.shape[2],
        "q_stride": q.stride(0), "q_head_stride": q.stride(1), "k_stride": k.stride(0),
        "k_head_stride": k.stride(1), "decay_stride": log_decay.stride(0),
        "GROUP": num_heads // k.shape[1],
    }  # fmt: skip


def places_of(state: Tensor | None, past: Past, other: Tensor) -> dict[str, object]:
    """Where sequences and states are; without a state, ``other`` in their place is not read."""
    if state is None:
        found: dict[str, object] = {"state": other, "seq_lens": other, "slots": other}
        return found | {"cu_seqlens": past.cu_seqlens, "state_stride": 0, "STATE": False}
    return {
        "state": state, "seq_lens": past.seq_lens, "slots": past.slots,
        "cu_seqlens": past.cu_seqlens, "state_stride": state.stride(0), "STATE": True,
    }  # fmt: skip


def _phase(num_tokens: int, num_seqs: int) -> str:
    """A batch with as many tokens as sequences counts as decoding: lengths are on the device."""
    return "decode" if num_tokens == num_seqs else "prefill"


def is_dense(state: Tensor | None) -> bool:
    """Whether each slot is in one piece."""
    return state is None or state[:1].is_contiguous()


def block(width: int) -> int:
    """The tile that has all of so many features."""
    return max(16, int(triton.next_power_of_2(width)))
