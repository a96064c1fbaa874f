"""Calls of every production wrapper at shapes that users meet; values do not matter.

Only ``gpu_compile`` runs these: each call compiles the kernels that it launches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from gpu_attention_cases import ATTENTION, paged, varlen

from atoll_kernels.gpu import (
    activation,
    gates,
    moe,
    norm,
    quantized,
    recurrent,
    rope,
    sampling,
    scan,
)
from atoll_kernels.linear import PackedLinear
from atoll_kernels.moe import Routing
from atoll_kernels.recurrent import Past

_HALF = torch.float16


def _norm(dtype: torch.dtype, hidden: int, *, rms: bool, is_wide: bool = False) -> None:
    x = torch.empty(4, hidden, dtype=dtype)
    weight = torch.empty(hidden, dtype=torch.float32 if is_wide else dtype)
    if rms:
        norm.rms_norm(x, weight, 1e-6, x)
    else:
        norm.layer_norm(x, weight, weight, 1e-6, x)


def _rope(dtype: torch.dtype) -> None:
    qkv = torch.empty(4, 48, 128, dtype=dtype)
    q, k, v = qkv.split([32, 8, 8], dim=1)
    cache = torch.empty(8, 16, 8, 128, dtype=dtype)
    places, table = torch.zeros(4, dtype=torch.int64), torch.empty(64, 64)
    rope.apply_rope(q, places, table, table)
    rope.write_kv(k, v, cache, cache, places)
    rope.rope_write_kv(q, k, v, places, table, table, cache, cache, places)


def _grouped_norm(dtype: torch.dtype, groups: int, size: int, *, is_gated: bool = True) -> None:
    """Queries and keys of Qwen3-Next, its heads, and what Mamba-2's heads give."""
    x = torch.empty(3, groups * size, dtype=dtype)
    weight = torch.empty(size if is_gated and groups > 1 else groups * size, dtype=torch.float32)
    norm.grouped_rms_norm(x, weight, 1e-6, size, x if is_gated else None, groups == 1)


def _gates(dtype: torch.dtype) -> None:
    x, factors = torch.empty(3, 64, dtype=dtype), torch.empty(32)
    gates.time_steps(x, None, (0.0, 1.0))
    gates.time_steps(x[:, :32], factors, (0.0, 1.0))
    gates.delta_gates(x[:, 32:], x[:, :32], factors, factors)


def _activation(dtype: torch.dtype) -> None:
    x = torch.empty(4, 4096, dtype=dtype)
    for name in ("gelu", "gelu_new", "silu"):
        activation.activate(x, name)
        activation.gated_activation(x, name)
    activation.gate_rows(x, x, None)


def _int4(dtype: torch.dtype, rows: int, *, act_order: bool = False, group: int = 128) -> None:
    inputs, outputs = 4096, 11008
    order = torch.zeros(inputs, dtype=torch.int32) if act_order else None
    tensors = (
        torch.empty(inputs // 8, outputs, dtype=torch.int32),
        torch.empty(inputs // group, outputs, dtype=torch.float16),
        torch.empty(inputs // group, outputs, dtype=torch.float16),
    )
    packed = quantized.GpuInt4(inputs, outputs, tensors, None, group, order)
    packed.forward(torch.empty(rows, inputs, dtype=dtype))


def _dequantized(bits: int, dtype: torch.dtype, *, act_order: bool = False) -> None:
    inputs, outputs = 4096, 11008
    if bits == 8:
        codes, scale = torch.empty(inputs, outputs, dtype=torch.int8), torch.empty(outputs)
        packed: quantized.GpuQuantized = quantized.GpuInt8(
            inputs, outputs, (codes, scale), None, inputs, None
        )
    else:
        scales = torch.empty(inputs // 128, outputs, dtype=torch.float16)
        words = torch.empty(inputs // 8, outputs, dtype=torch.int32)
        order = torch.zeros(inputs, dtype=torch.int32) if act_order else None
        packed = quantized.GpuInt4(inputs, outputs, (words, scales, scales), None, 128, order)
    packed.dequantized(dtype)


def _dense_row(dtype: torch.dtype) -> None:
    packed = quantized.GpuDense(4096, 512, (torch.empty(512, 4096, dtype=dtype),), None)
    packed.forward(torch.empty(1, 4096, dtype=dtype), "silu")


def _int8(dtype: torch.dtype, rows: int) -> None:
    tensors = (torch.empty(1024, 3072, dtype=torch.int8), torch.empty(3072))
    bias = torch.empty(3072, dtype=dtype)
    packed = quantized.GpuInt8(1024, 3072, tensors, bias, 1024, None)
    packed.forward(torch.empty(rows, 1024, dtype=dtype), "gelu")


def _experts(dtype: torch.dtype, rows: int, scheme: str = "dense") -> None:
    def layer(inputs: int, outputs: int) -> PackedLinear:
        weight = torch.zeros(outputs, inputs, dtype=dtype)
        packed = quantized.pack_linear(weight, None, scheme, 128)
        assert packed is not None
        return packed

    sides = ([layer(256, 512)] * 8, [layer(256, 256)] * 8)
    packed = moe.pack_experts(torch.empty(0), *map(tuple, sides))
    assert packed is not None
    x = torch.empty(rows, 256, dtype=dtype)
    packed.forward(x, torch.empty(rows, 8, dtype=dtype), Routing(2), "silu")


def _mxfp4(dtype: torch.dtype, rows: int) -> None:
    """gpt-oss's experts, but for their number."""
    tensors = [
        (torch.empty(8, 360, 5760, dtype=torch.int32), torch.empty(8, 90, 5760, dtype=torch.uint8)),
        (torch.empty(8, 360, 2880, dtype=torch.int32), torch.empty(8, 90, 2880, dtype=torch.uint8)),
    ]
    biases = [torch.empty(8, width, dtype=dtype) for width in (5760, 2880)]
    packed = moe.StackedExperts(*tensors, *biases, bits=4, is_fp4=True, group=64)
    x = torch.empty(rows, 2880, dtype=dtype)
    packed.forward(x, torch.empty(rows, 8, dtype=dtype), Routing(4), "gpt_oss")


def _past(lengths: Sequence[int], keeps: bool) -> Past:
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    places = torch.zeros(len(lengths), dtype=torch.int32)
    return Past(ends, places, places) if keeps else Past(ends)


def _conv(dtype: torch.dtype, lengths: Sequence[int] = (1, 1), *, keeps: bool = True) -> None:
    """Qwen3-Next's, of which rows are parts of a projection, or LFM2's."""
    channels, width = (8192, 4) if keeps else (2048, 3)
    x = torch.empty(sum(lengths), channels + 4096, dtype=dtype)[:, :channels]
    weight = torch.empty(channels, width, dtype=dtype)
    state = torch.empty(2, channels, width - 1, dtype=dtype) if keeps else None
    bias = None if keeps else weight[:, 0].contiguous()
    recurrent.causal_conv(x, weight, bias, state, _past(lengths, keeps), "silu" if keeps else None)


def _delta(
    dtype: torch.dtype, lengths: Sequence[int], dim: int = 128, *, keeps: bool = True,
    stored: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Qwen3-Next's heads: 16 of keys, 32 of values. stored: how the state is."""
    tokens = sum(lengths)
    qkv = torch.empty(tokens, 64, dim, dtype=dtype)
    gates = torch.empty(2, tokens, 32)
    state = torch.empty(2, 32, dim, dim, dtype=stored) if keeps else None
    recurrent.gated_delta(*qkv.split([16, 16, 32], 1), *gates, state, _past(lengths, keeps))


def _scan2(
    dtype: torch.dtype, lengths: Sequence[int], size: int = 128, *, keeps: bool = True,
    stored: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Granite 4's heads, whose inputs are parts of a convolution's outputs; one group."""
    tokens, heads = sum(lengths), 48
    mixed = torch.empty(tokens, heads * 64 + 2 * size, dtype=dtype)
    x, b, c = mixed.split([heads * 64, size, size], 1)
    steps, factors = torch.empty(tokens, heads), torch.empty(heads)
    state = torch.empty(2, heads, 64, size, dtype=stored) if keeps else None
    scan.selective_scan2(
        x.unflatten(1, (heads, 64)), steps, factors, b.unsqueeze(1), c.unsqueeze(1),
        factors if keeps else None, state, _past(lengths, keeps),
    )  # fmt: skip


def _scan(dtype: torch.dtype, size: int = 16, *, keeps: bool = True) -> None:
    """Mamba's channels."""
    x, steps = torch.empty(4, 1536, dtype=dtype), torch.empty(4, 1536)
    b, c = torch.empty(4, 48 + 2 * size, dtype=dtype)[:, 48:].split([size, size], 1)
    state = torch.empty(2, 1536, size) if keeps else None
    decays, skip = torch.empty(1536, size), torch.empty(1536)
    scan.selective_scan(x, steps, decays, b, c, skip, state, _past((1, 3), keeps))


def _batches() -> None:
    """Batches of many sizes through the same layers, as a server's steps are."""
    heads = (_HALF, 32, 8, 128)
    for lengths in ((100,), (600,), (300,) * 16, (90,) * 17, (80, 99, 120)):
        varlen(*heads, causal=True, lengths=lengths)
        paged(*heads, lengths, width=len(lengths) + 15)
    for count in (1, 2, 3, 16, 17, 48):
        paged(*heads, (1,) * count, decode=True, width=16 * count + 1)
    for rows in (2, 3, 16, 17, 31):
        _int4(_HALF, rows)
        _experts(_HALF, rows)
        _delta(_HALF, (1,) * rows)
        _delta(_HALF, (1,) * rows + (90 + rows,))
        _scan2(_HALF, (1,) * rows)
        _scan2(_HALF, (1,) * rows + (90 + rows,))
        _conv(_HALF, (1,) * rows + (rows,))


def _sample() -> None:
    column = torch.ones(2)
    limits = (torch.ones(2, dtype=torch.int32), column)
    uniforms = torch.ones(2, dtype=torch.float64)
    for top_k, top_p in ((None, None), limits):
        sampling.sample(torch.empty(2, 32000), column, top_k, top_p, uniforms)


CASES: dict[str, Callable[[], None]] = {
    **ATTENTION,
    "layer-norm": partial(_norm, _HALF, 768, rms=False),
    "layer-norm-fp32": partial(_norm, torch.float32, 14848, rms=False),
    "rms-norm": partial(_norm, _HALF, 4096, rms=True),
    "rms-norm-bf16": partial(_norm, torch.bfloat16, 8192, rms=True),
    "rms-norm-bf16-zero-centred": partial(_norm, torch.bfloat16, 5376, rms=True, is_wide=True),
    "rope": partial(_rope, _HALF),
    "rope-bf16": partial(_rope, torch.bfloat16),
    "grouped-norm": partial(_grouped_norm, _HALF, 32, 128),
    "grouped-norm-bf16": partial(_grouped_norm, torch.bfloat16, 1, 8192),
    "grouped-norm-fp32": partial(_grouped_norm, torch.float32, 32, 128, is_gated=False),
    "gates": partial(_gates, _HALF),
    "gates-bf16": partial(_gates, torch.bfloat16),
    "activation": partial(_activation, _HALF),
    "activation-bf16": partial(_activation, torch.bfloat16),
    "int4-decode": partial(_int4, _HALF, 4),
    "int4-decode-order": partial(_int4, _HALF, 4, act_order=True),
    "int4-decode-g32": partial(_int4, _HALF, 4, group=32),
    "int4-decode-bf16": partial(_int4, torch.bfloat16, 4),
    "int4-decode-fp32": partial(_int4, torch.float32, 4),
    "int4-prefill": partial(_int4, _HALF, 128),
    "int4-prefill-bf16": partial(_int4, torch.bfloat16, 128),
    "int4-prefill-fp32": partial(_int4, torch.float32, 512),
    "int8-decode": partial(_int8, _HALF, 4),
    "int8-prefill": partial(_int8, _HALF, 128),
    "int4-dequantized": partial(_dequantized, 4, _HALF),
    "int4-dequantized-order-bf16": partial(_dequantized, 4, torch.bfloat16, act_order=True),
    "int8-dequantized": partial(_dequantized, 8, _HALF),
    "int8-dequantized-bf16": partial(_dequantized, 8, torch.bfloat16),
    "gemv": partial(_dense_row, _HALF),
    "gemv-bf16": partial(_dense_row, torch.bfloat16),
    "gemv-fp32": partial(_dense_row, torch.float32),
    "gemv-int4": partial(_int4, _HALF, 1),
    "gemv-int4-order": partial(_int4, torch.bfloat16, 1, act_order=True),
    "experts-decode": partial(_experts, _HALF, 4),
    "experts-shares-of-all": lambda: moe.route(
        torch.empty(4, 128, dtype=_HALF), Routing(8, renormalize=False), None
    ),
    "experts-decode-bf16": partial(_experts, torch.bfloat16, 4),
    "experts-prefill": partial(_experts, _HALF, 512),
    "experts-prefill-bf16": partial(_experts, torch.bfloat16, 512),
    "experts-prefill-fp32": partial(_experts, torch.float32, 512),
    "experts-int4-decode": partial(_experts, _HALF, 4, "int4"),
    "experts-int4-prefill": partial(_experts, _HALF, 512, "int4"),
    "experts-mxfp4-decode": partial(_mxfp4, _HALF, 4),
    "experts-mxfp4-decode-bf16": partial(_mxfp4, torch.bfloat16, 4),
    "experts-mxfp4-prefill": partial(_mxfp4, _HALF, 512),
    "experts-mxfp4-prefill-bf16": partial(_mxfp4, torch.bfloat16, 512),
    "experts-mxfp4-prefill-fp32": partial(_mxfp4, torch.float32, 512),
    "conv-decode": partial(_conv, _HALF),
    "conv-prefill-bf16": partial(_conv, torch.bfloat16, (9, 80)),
    "conv-prefill-fp32": partial(_conv, torch.float32, (9, 80), keeps=False),
    "delta-step": partial(_delta, _HALF, (1, 3)),
    "delta-step-bf16": partial(_delta, torch.bfloat16, (1, 1), keeps=False),
    "delta-step-fp32": partial(_delta, torch.float32, (1, 1)),
    "delta-step-d64": partial(_delta, _HALF, (1, 1), 64),
    "delta-step-d256": partial(_delta, _HALF, (1, 80), 256),
    "delta-step-stored-bf16": partial(_delta, torch.bfloat16, (1, 1), stored=torch.bfloat16),
    "delta-chunk-stored-fp16": partial(_delta, torch.bfloat16, (1, 80), stored=torch.float16),
    "delta-chunk": partial(_delta, _HALF, (1, 80)),
    "delta-chunk-bf16": partial(_delta, torch.bfloat16, (1, 80)),
    "delta-chunk-fp32": partial(_delta, torch.float32, (1, 80), 64, keeps=False),
    "delta-chunk-d64": partial(_delta, _HALF, (1, 80), 64),
    "scan2-step": partial(_scan2, _HALF, (1, 3)),
    "scan2-step-bf16": partial(_scan2, torch.bfloat16, (1, 1), keeps=False),
    "scan2-step-d256": partial(_scan2, torch.bfloat16, (1, 80), 256),
    "scan2-step-stored-fp16": partial(_scan2, torch.bfloat16, (1, 1), stored=torch.float16),
    "scan2-chunk-stored-bf16": partial(_scan2, torch.bfloat16, (1, 80), stored=torch.bfloat16),
    "scan": partial(_scan, _HALF),
    "scan-bf16": partial(_scan, torch.bfloat16, keeps=False),
    "scan-fp32-d256": partial(_scan, torch.float32, 256),
    "scan2-chunk": partial(_scan2, _HALF, (1, 80)),
    "scan2-chunk-bf16": partial(_scan2, torch.bfloat16, (1, 80)),
    "scan2-chunk-fp32": partial(_scan2, torch.float32, (1, 80), 64),
    "scan2-chunk-d64": partial(_scan2, _HALF, (1, 80), 64, keeps=False),
    "sample": _sample,
    "batches": _batches,
}
