"""Recurrent layers by native kernels, one for a step of decoding and for the chunks of prompts."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll_kernels.cpu.graph import empty
from atoll_kernels.cpu.native import library
from atoll_kernels.cpu.native.arguments import address, are_native
from atoll_kernels.recurrent import Past

_WIDTHS = (2, 3, 4)
# As numbered in cpu/native/src/state.h.
_STATE_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, past: Past,
    activation: str | None = None,
) -> Tensor | None:  # fmt: skip
    """See ``atoll_kernels.causal_conv``."""
    native = library()
    channels, width = weight.shape
    others = [weight, *(t for t in (bias, state) if t is not None)]
    if native is None or width not in _WIDTHS or not are_native(x, *others):
        return None
    if activation not in (None, "silu") or not weight.is_contiguous():
        return None
    if not is_dense(state):
        return None
    out = empty(x.shape, x.dtype)
    native.causal_conv(
        x.dtype, x.data_ptr(), weight.data_ptr(), address(bias), address(state), out.data_ptr(),
        *places(state, past), x.stride(0), row(state), len(past.cu_seqlens) - 1, channels, width,
        activation is not None,
    )  # fmt: skip
    return out


def gated_delta(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor | None,
    past: Past,
) -> Tensor | None:  # fmt: skip
    """See ``atoll_kernels.gated_delta``; float16 is computed as float32."""
    if v.dtype == torch.float16:
        wide = gated_delta(q.float(), k.float(), v.float(), log_decay, beta, state, past)
        return None if wide is None else wide.half()
    native = library()
    if native is None or not are_native(v, q, k) or not is_native_state(state):
        return None
    gates = log_decay, beta
    if any(x.dtype != torch.float32 or x.stride(1) != 1 for x in gates):
        return None
    _, num_v_heads, value_dim = v.shape
    _, num_k_heads, key_dim = k.shape
    out = empty(v.shape, v.dtype)
    native.gated_delta(
        v.dtype, q.data_ptr(), k.data_ptr(), v.data_ptr(), log_decay.data_ptr(), beta.data_ptr(),
        address(state), out.data_ptr(), *places(state, past), *q.stride()[:2], *k.stride()[:2],
        *v.stride()[:2], log_decay.stride(0), beta.stride(0), row(state),
        len(past.cu_seqlens) - 1, num_k_heads, num_v_heads, key_dim, value_dim, kind(state),
    )  # fmt: skip
    return out


def places(state: Tensor | None, past: Past) -> tuple[int, int, int]:
    """The addresses in the sources' ``Past``; without a state, every sequence begins at zero."""
    if state is None:
        return past.cu_seqlens.data_ptr(), 0, 0
    return past.cu_seqlens.data_ptr(), address(past.seq_lens), address(past.slots)


def row(state: Tensor | None) -> int:
    """Elements between slots."""
    return 0 if state is None else state.stride(0)


def is_dense(state: Tensor | None) -> bool:
    """Whether each slot is in one piece."""
    return state is None or state[:1].is_contiguous()


def is_native_state(state: Tensor | None) -> bool:
    """Whether kernels can read and write it; computed in float32 whatever its dtype."""
    return state is None or (state.dtype in _STATE_KINDS and is_dense(state))


def kind(state: Tensor | None) -> int:
    """What elements it has."""
    return 0 if state is None else _STATE_KINDS[state.dtype]
