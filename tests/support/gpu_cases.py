"""Calls of every production wrapper at shapes that users meet; values do not matter.

Only ``gpu_compile`` runs these: each call compiles the kernels that it launches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from atoll_kernels.attention import AttentionArgs, PagedKV
from atoll_kernels.disentangled import DistanceTables
from atoll_kernels.gpu import (
    activation,
    disentangled,
    flash,
    latent,
    moe,
    norm,
    quantized,
    rope,
    sampling,
)
from atoll_kernels.linear import PackedLinear
from atoll_kernels.moe import Routing

_HALF = torch.float16


def _cu(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int()


def _varlen(
    dtype: torch.dtype, num_heads: int, num_kv_heads: int, head_dim: int, *, causal: bool = False,
    window: int | None = None, softcap: float | None = None, alibi: bool = False,
    relative: bool = False, sinks: bool = False, lengths: tuple[int, ...] = (512, 88),
) -> None:  # fmt: skip
    qkv = torch.empty(sum(lengths), num_heads + 2 * num_kv_heads, head_dim, dtype=dtype)
    q, k, v = qkv.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
    flash.varlen(
        q, k, v, _cu(*lengths), _cu(*lengths),
        AttentionArgs(
            0.1, causal, window, softcap, alibi_slopes=torch.empty(num_heads) if alibi else None,
            relative_bias=torch.empty(num_heads, 257) if relative else None,
            sinks=torch.empty(num_heads) if sinks else None,
        ),
    )  # fmt: skip


def _paged(
    dtype: torch.dtype, num_heads: int, num_kv_heads: int, head_dim: int, tokens: tuple[int, ...],
    *, window: int | None = None, softcap: float | None = None, alibi: bool = False,
    sinks: bool = False, decode: bool = False, width: int = 128,
) -> None:  # fmt: skip
    cache = torch.empty(64, 16, num_kv_heads, head_dim, dtype=dtype)
    q = torch.empty(sum(tokens), num_heads, head_dim, dtype=dtype)
    op = flash.paged_decode if decode else flash.paged_prefill
    table = torch.zeros(len(tokens), width, dtype=torch.int32)
    slopes = torch.empty(num_heads) if alibi else None
    op(
        q, PagedKV(cache, cache, table, torch.tensor(tokens, dtype=torch.int32)), _cu(*tokens),
        AttentionArgs(
            0.1, causal=True, window=window, softcap=softcap, alibi_slopes=slopes,
            sinks=torch.empty(num_heads) if sinks else None,
        ),
    )  # fmt: skip


def _latent(dtype: torch.dtype, num_heads: int, tokens: tuple[int, ...] = (1,) * 4) -> None:
    cache = torch.empty(64, 16, 1, 576, dtype=dtype)
    table = torch.zeros(len(tokens), 128, dtype=torch.int32)
    lengths = torch.tensor(tokens, dtype=torch.int32)
    latent.paged(
        torch.empty(sum(tokens), num_heads, 576, dtype=dtype),
        PagedKV(cache, cache[..., :512], table, lengths), _cu(*tokens), AttentionArgs(0.1, True),
    )  # fmt: skip


def _disentangled(dtype: torch.dtype, head_dim: int) -> None:
    qkv = torch.empty(600, 36, head_dim, dtype=dtype)
    table = torch.empty(512, 12, head_dim, dtype=dtype)
    rows = torch.zeros(1023, dtype=torch.int32)
    tables = DistanceTables(table, table, rows)
    disentangled.disentangled_attention(*qkv.split(12, 1), tables, _cu(512, 88), 0.1)


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


def _activation(dtype: torch.dtype) -> None:
    x = torch.empty(4, 4096, dtype=dtype)
    for name in ("gelu", "gelu_new", "silu"):
        activation.activate(x, name)
        activation.gated_activation(x, name)


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


def _batches() -> None:
    """Batches of many sizes through the same layers, as a server's steps are."""
    heads = (_HALF, 32, 8, 128)
    for lengths in ((100,), (600,), (300,) * 16, (90,) * 17, (80, 99, 120)):
        _varlen(*heads, causal=True, lengths=lengths)
        _paged(*heads, lengths, width=len(lengths) + 15)
    for count in (1, 2, 3, 16, 17, 48):
        _paged(*heads, (1,) * count, decode=True, width=16 * count + 1)
    for rows in (2, 3, 16, 17, 31):
        _int4(_HALF, rows)
        _experts(_HALF, rows)


def _sample() -> None:
    column = torch.ones(2)
    limits = (torch.ones(2, dtype=torch.int32), column)
    uniforms = torch.ones(2, dtype=torch.float64)
    for top_k, top_p in ((None, None), limits):
        sampling.sample(torch.empty(2, 32000), column, top_k, top_p, uniforms)


CASES: dict[str, Callable[[], None]] = {
    "flash-d64": partial(_varlen, _HALF, 12, 12, 64),
    "flash-d64-alibi": partial(_varlen, _HALF, 12, 12, 64, alibi=True),
    "flash-d64-relative": partial(_varlen, _HALF, 12, 12, 64, relative=True),
    "flash-d64-bf16": partial(_varlen, torch.bfloat16, 12, 12, 64),
    "flash-d64-fp32": partial(_varlen, torch.float32, 12, 12, 64),
    "flash-d64-window": partial(_varlen, _HALF, 12, 12, 64, window=64),
    "flash-d64-short-seqlen": partial(_varlen, _HALF, 12, 12, 64, lengths=(5, 32)),
    "flash-d64-short-seqlen-window": partial(_varlen, _HALF, 12, 12, 64, window=8, lengths=(5, 32)),
    "flash-d128-short-seqlen": partial(_varlen, _HALF, 32, 8, 128, causal=True, lengths=(5, 32)),
    "flash-d80": partial(_varlen, _HALF, 8, 8, 80, causal=True),
    "flash-d128": partial(_varlen, _HALF, 32, 8, 128, causal=True),
    "flash-d128-window": partial(_varlen, _HALF, 32, 8, 128, causal=True, window=128),
    "flash-d128-alibi": partial(_varlen, _HALF, 32, 32, 128, causal=True, alibi=True),
    "flash-d128-fp32": partial(_varlen, torch.float32, 32, 8, 128, causal=True),
    "flash-d256": partial(_varlen, _HALF, 8, 8, 256, causal=True),
    "flash-d128-softcap": partial(_varlen, _HALF, 32, 16, 128, causal=True, softcap=50.0),
    "flash-d256-softcap": partial(_varlen, _HALF, 8, 4, 256, causal=True, softcap=50.0),
    "flash-d256-window": partial(_varlen, _HALF, 16, 8, 256, causal=True, window=128),
    "flash-d256-fp32": partial(_varlen, torch.float32, 8, 8, 256, causal=True),
    "prefill-d64": partial(_paged, _HALF, 9, 3, 64, (100, 28)),
    "prefill-d128": partial(_paged, _HALF, 32, 8, 128, (100, 28)),
    "prefill-d128-window": partial(_paged, _HALF, 32, 8, 128, (100, 28), window=64),
    "prefill-d128-alibi": partial(_paged, _HALF, 32, 32, 128, (100, 28), alibi=True),
    "prefill-d256": partial(_paged, _HALF, 8, 8, 256, (100, 28)),
    "prefill-d128-softcap": partial(_paged, _HALF, 32, 16, 128, (100, 28), softcap=50.0),
    "prefill-d256-softcap": partial(_paged, _HALF, 8, 4, 256, (100, 28), softcap=50.0, window=64),
    "prefill-d256-window": partial(_paged, _HALF, 4, 1, 256, (600, 28), window=512),
    "prefill-d256-short-qlen-window": partial(_paged, _HALF, 4, 1, 256, (5, 1, 3), window=512),
    "prefill-d256-fp32-window": partial(_paged, torch.float32, 4, 1, 256, (600, 28), window=512),
    "prefill-d64-short-qlen": partial(_paged, _HALF, 9, 3, 64, (5, 1, 3)),
    "prefill-d128-short-qlen": partial(_paged, _HALF, 32, 8, 128, (5, 1, 3)),
    "prefill-d128-fp32": partial(_paged, torch.float32, 32, 8, 128, (100, 28)),
    "decode-d64": partial(_paged, _HALF, 9, 3, 64, (1,) * 4, decode=True),
    "decode-d64-fp32": partial(_paged, torch.float32, 9, 3, 64, (1,) * 4, decode=True),
    "decode-d80": partial(_paged, _HALF, 32, 32, 80, (1,) * 4, decode=True),
    "decode-d128": partial(_paged, _HALF, 32, 8, 128, (1,) * 4, decode=True),
    "decode-d128-bf16": partial(_paged, torch.bfloat16, 32, 8, 128, (1,) * 4, decode=True),
    "decode-d128-window": partial(_paged, _HALF, 32, 8, 128, (1,) * 4, decode=True, window=64),
    "decode-d128-alibi": partial(_paged, _HALF, 32, 32, 128, (1,) * 4, decode=True, alibi=True),
    "flash-d64-sinks": partial(_varlen, _HALF, 64, 8, 64, causal=True, sinks=True),
    "prefill-d64-sinks": partial(_paged, _HALF, 64, 8, 64, (100, 28), window=128, sinks=True),
    "prefill-d64-sinks-bf16": partial(_paged, torch.bfloat16, 64, 8, 64, (100, 28), sinks=True),
    "decode-d64-sinks": partial(
        _paged, _HALF, 64, 8, 64, (1,) * 4, decode=True, window=128, sinks=True
    ),
    "decode-d64-sinks-bf16": partial(
        _paged, torch.bfloat16, 64, 8, 64, (1,) * 4, decode=True, sinks=True
    ),
    "decode-mqa71": partial(_paged, _HALF, 71, 1, 64, (1,) * 4, decode=True),
    "decode-mqa48": partial(_paged, _HALF, 48, 1, 128, (1,) * 4, decode=True),
    "decode-d128-fp32": partial(_paged, torch.float32, 32, 8, 128, (1,) * 4, decode=True),
    "decode-d256": partial(_paged, _HALF, 16, 1, 256, (1,) * 4, decode=True),
    "decode-d256-softcap": partial(_paged, _HALF, 8, 4, 256, (1,) * 4, decode=True, softcap=50.0),
    "decode-d256-window": partial(_paged, _HALF, 4, 1, 256, (1,) * 4, decode=True, window=512),
    "decode-d256-fp32": partial(_paged, torch.float32, 16, 1, 256, (1,) * 4, decode=True),
    "latent-decode": partial(_latent, _HALF, 16),
    "latent-decode-bf16": partial(_latent, torch.bfloat16, 16),
    "latent-decode-mqa128": partial(_latent, _HALF, 128),
    "latent-decode-mqa128-bf16": partial(_latent, torch.bfloat16, 128),
    "latent-prefill": partial(_latent, _HALF, 128, (100, 28)),
    "disentangled-d64": partial(_disentangled, _HALF, 64),
    "disentangled-d64-bf16": partial(_disentangled, torch.bfloat16, 64),
    "disentangled-d64-fp32": partial(_disentangled, torch.float32, 64),
    "disentangled-d128": partial(_disentangled, _HALF, 128),
    "disentangled-d128-fp32": partial(_disentangled, torch.float32, 128),
    "layer-norm": partial(_norm, _HALF, 768, rms=False),
    "layer-norm-fp32": partial(_norm, torch.float32, 14848, rms=False),
    "rms-norm": partial(_norm, _HALF, 4096, rms=True),
    "rms-norm-bf16": partial(_norm, torch.bfloat16, 8192, rms=True),
    "rms-norm-bf16-zero-centred": partial(_norm, torch.bfloat16, 5376, rms=True, is_wide=True),
    "rope": partial(_rope, _HALF),
    "rope-bf16": partial(_rope, torch.bfloat16),
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
    "sample": _sample,
    "batches": _batches,
}
