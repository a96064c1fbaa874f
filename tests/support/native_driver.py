"""Runs every native kernel of a library at awkward shapes: ``native_driver.py LEVEL SANITIZERS``.

Started by a test, with the sanitizers' runtime loaded first; they end the process with a report.
Buffers are exact: a read or a write beyond one of them is found.
"""

from __future__ import annotations

import sys
from unittest import mock

import torch

import atoll_kernels as kernels
from atoll_kernels.attention import AttentionArgs, PagedKV
from atoll_kernels.cpu import (
    activation,
    attention,
    linear_native_dense,
    linear_native_mxfp4,
    linear_native_quantized,
    norm,
    recurrent,
    rope,
    scan,
)
from atoll_kernels.cpu.int4_groups import quantize, quantize_in_bytes
from atoll_kernels.cpu.native.build import LEVELS, build
from atoll_kernels.cpu.native.library import Library
from atoll_kernels.linear import PackedLinear, quantize_int8

MODULES = (
    activation,
    attention,
    linear_native_quantized,
    linear_native_mxfp4,
    linear_native_dense,
    norm,
    recurrent,
    rope,
    scan,
)


def main(level_name: str, sanitizers: str) -> None:
    """Loads what was compiled before, and runs it."""
    level = next(level for level in LEVELS if level.name == level_name)
    library = Library.load(level, build(level, sanitizers))
    for module in MODULES:
        mock.patch.object(module, "library", lambda: library).start()
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        _recurrent(dtype)
        _scan(dtype)
        _disentangled(dtype)
        _attention(dtype)
        _rows(dtype)
        _linear(dtype, library)
        _quantized(dtype)
    print("clean")


def _attention(dtype: torch.dtype) -> None:
    lengths = [0, 1, 300, 19]
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int()
    for num_heads, num_kv_heads, head_dim in ((2, 2, 10), (6, 1, 80)):
        qkv = torch.randn(sum(lengths), num_heads + 2 * num_kv_heads, head_dim).to(dtype)
        q, k, v = qkv.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
        for causal, window, biased in ((False, None, True), (True, 5, False), (True, None, True)):
            slopes = torch.rand(num_heads) if biased else None
            table = torch.randn(num_heads, 7) if biased else None
            cap = None if biased else 20.0
            sinks = None if biased else torch.rand(num_heads)
            args = AttentionArgs(0.1, causal, window, cap, slopes, table, sinks)
            attention.varlen_attention(q, k, v, bounds, bounds, args)
            attention.varlen_attention(q, k, v[..., :8].clone(), bounds, bounds, args)
            for counts, lens in (([1, 1], [0, 33]), ([2], [1500])):
                blocks = -(-max(lens) // 16)
                cache = torch.randn(len(lens) * blocks, 16, num_kv_heads, head_dim).to(dtype)
                order = torch.arange(len(cache), dtype=torch.int32).view(len(lens), blocks)
                starts = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0).int()
                kv = PagedKV(cache, cache, order, torch.tensor(lens, dtype=torch.int32))
                attention.paged_attention(q[: sum(counts)], kv, starts, args)


def _disentangled(dtype: torch.dtype) -> None:
    """Before all else, so that no scratch memory is larger than needed; rows that are shared."""
    for lengths, num_heads, head_dim in (([0, 1, 3], 1, 10), ([19, 300], 2, 80), ([520], 1, 32)):
        bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int()
        qkv = torch.randn(sum(lengths), 3 * num_heads, head_dim).to(dtype)
        for reach, step in ((4, 1), (290, 3)):
            rows = torch.arange(reach, -reach - 1, -1).div(step, rounding_mode="floor")
            rows = (rows - rows.min()).int()
            both = torch.randn(2, int(rows.max()) + 1, num_heads, head_dim).to(dtype)
            tables = kernels.DistanceTables(both[0].clone(), both[1].clone(), rows)
            attention.disentangled_attention(*qkv.split(num_heads, 1), tables, bounds, 0.1)


def _recurrent(dtype: torch.dtype) -> None:
    """Widths that are no whole vectors, and chunks that are not full."""
    for lengths, width in (([1, 1], 4), ([3, 1, 70], 5)):
        ends = torch.tensor([0, *lengths]).cumsum(0).int()
        slots = torch.arange(len(lengths)).int()
        tokens, past = sum(lengths), kernels.Past(ends, ends[1:].clone(), slots)
        for place in (past, past._replace(seq_lens=past.seq_lens + 1), kernels.Past(ends)):
            for taps, channels in ((2, 5), (3, 40), (4, 261)):
                x, weight = torch.randn(tokens, channels), torch.randn(channels, taps)
                state = torch.randn(len(lengths), channels, taps - 1).to(dtype)
                recurrent.causal_conv(
                    x.to(dtype), weight.to(dtype), weight[:, 0].to(dtype).contiguous(),
                    state if place.slots is not None else None, place, "silu",
                )  # fmt: skip
            for key_dim, value_dim in ((width, 3), (32, 16 * width), (7, 131)):
                q, k = torch.randn(2, tokens, 1, key_dim).to(dtype)
                v = torch.randn(tokens, 2, value_dim).to(dtype)
                matrix = torch.randn(len(lengths), 2, key_dim, value_dim)
                gates = -torch.rand(tokens, 2)
                recurrent.gated_delta(
                    q.clone(), k.clone(), v, gates, gates,
                    matrix if place.slots is not None else None, place,
                )  # fmt: skip


def _scan(dtype: torch.dtype) -> None:
    """States that are no whole vectors, and whole ones."""
    ends = torch.tensor([0, 1, 40], dtype=torch.int32)
    past = kernels.Past(ends, ends[1:] + 1, torch.tensor([1, 0], dtype=torch.int32))
    for width, size in ((5, 7), (70, 16), (9, 35)):
        x, b, c = (torch.randn(40, n).to(dtype) for n in (width, size, size))
        steps, speeds, skip = torch.rand(40, width), -torch.rand(width, size), torch.rand(width)
        for place in (past, kernels.Past(ends)):
            state = None if place.slots is None else torch.randn(2, width, size)
            scan.selective_scan(x, steps, speeds, b, c, skip, state, place)
            scan.selective_scan2(
                x.view(40, 1, width), steps[:, :1].clone(), skip[:1].neg(), b.view(40, 1, size),
                c.view(40, 1, size), None, None if state is None else state[:, None], place,
            )  # fmt: skip


def _rows(dtype: torch.dtype) -> None:
    for rows, width in ((3, 5), (70, 514)):
        x, weight = torch.randn(rows, width).to(dtype), torch.randn(width).to(dtype)
        norm.layer_norm(x, weight, weight, 1e-5, x)
        norm.rms_norm(x, weight, 1e-5, None)
        for name in kernels.ACTIVATIONS:
            activation.activate(x, name)
            activation.gated_activation(x[:, : width // 2 * 2], name)
    qkv, cache = torch.randn(5, 4, 10).to(dtype), torch.zeros(2, 2, 4, 1, 10, dtype=dtype)
    q, k, v = qkv.split([2, 1, 1], dim=1)
    table, places = torch.randn(6, 3), torch.tensor([0, 5, 1, 2, 3])
    rope.rope_write_kv(q, k, v, places, table, table, cache[0], cache[1], places)


def _linear(dtype: torch.dtype, library: Library) -> None:
    for rows, inputs, outs in ((1, 30, 5), (67, 34, 40), (67, 64, 40), (300, 96, 70)):
        x, weight = torch.randn(rows, inputs).to(dtype), torch.randn(outs, inputs).to(dtype)
        bias = torch.randn(outs)
        if dtype == torch.float32 or library.has_bf16:
            linear_native_dense.pack_floats(weight, bias, library.width).forward(x)


def _quantized(dtype: torch.dtype) -> None:
    for outs, inputs in ((5, 32), (40, 352)):
        weight, bias = torch.randn(outs, inputs), torch.randn(outs)
        layers: list[PackedLinear] = [
            linear_native_quantized.pack8(*quantize_int8(weight), bias),
            linear_native_quantized.pack4(quantize(weight, 32), bias),
            linear_native_quantized.pack4(quantize_in_bytes(weight, 32), None),
        ]
        blocks = torch.randint(0, 256, (outs, inputs // 32, 16), dtype=torch.uint8)
        packed = linear_native_mxfp4.pack(blocks, blocks[..., 0] // 2, bias)
        assert packed is not None
        layers.append(packed)
        for rows in (1, 8, 270):
            for layer in layers:
                layer.forward(torch.randn(rows, inputs).to(dtype), "gelu")


if __name__ == "__main__":
    main(*sys.argv[1:])
