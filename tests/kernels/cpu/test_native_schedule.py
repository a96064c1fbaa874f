"""However many threads share a kernel's work, every output is written, and is what one computes.

Results are filled with NaN first: an item that no thread takes would otherwise show what malloc
left there, which is often the right answer of the call before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from native import LEVELS, native, native_level
from torch import Tensor

from atoll_kernels.attention import AttentionArgs
from atoll_kernels.cpu import attention, linear_native_dense, linear_native_quantized
from atoll_kernels.cpu.int4_groups import quantize_in_bytes
from atoll_kernels.cpu.native.build import Level
from atoll_kernels.linear import quantize_int8

# Primes leave the threads with unequal numbers of items.
THREADS = (2, 3, 5, 7)
# (rows, outputs, inputs), all above the sizes that one thread computes alone: a row, fewer outputs
# than threads have panels, one output more than whole panels, and rows that are cut into items.
SHAPES = ((1, 2049, 160), (1, 31, 9000), (7, 353, 160), (65, 97, 64), (97, 65, 96), (259, 33, 64))


@pytest.fixture(params=LEVELS, ids=lambda level: level.name, autouse=True)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Level:
    found: Level = request.param
    native_level(found, monkeypatch)
    monkeypatch.setattr(linear_native_quantized, "library", lambda: native(found))
    for module in (linear_native_dense, linear_native_quantized, attention):
        monkeypatch.setattr(module, "empty", _spoilt)
    torch.manual_seed(0)
    return found


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _spoilt(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.full(tuple(shape), math.nan, dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dense(shape: tuple[int, int, int], level: Level) -> None:
    rows, outs, width = shape
    x, weight = torch.randn(rows, width), torch.randn(outs, width) / math.sqrt(width)
    packed = linear_native_dense.pack_floats(weight, torch.randn(outs), native(level).width)
    torch.set_num_threads(1)
    alone = packed.forward(x, "silu")
    assert bool(torch.isfinite(alone).all())
    for num_threads in THREADS:
        torch.set_num_threads(num_threads)
        # Cuts of rows and panels follow the threads, and with them the order of sums.
        together = packed.forward(x, "silu")
        torch.testing.assert_close(together, alone, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_quantized(shape: tuple[int, int, int], bits: int) -> None:
    rows, outs, width = shape
    width -= width % 32
    x, weight = torch.randn(rows, width), torch.randn(outs, width)
    packed = (
        linear_native_quantized.pack8(*quantize_int8(weight), torch.randn(outs))
        if bits == 8
        else linear_native_quantized.pack4(quantize_in_bytes(weight, 32), torch.randn(outs))
    )
    torch.set_num_threads(1)
    alone = packed.forward(x)
    assert bool(torch.isfinite(alone).all())
    for num_threads in THREADS:
        torch.set_num_threads(num_threads)
        assert torch.equal(packed.forward(x), alone)


@pytest.mark.parametrize("lengths", [(1700,), (1, 600, 33), (7,) * 19], ids=str)
def test_attention(lengths: tuple[int, ...]) -> None:
    """Queries are cut by the threads; a long text's last one has its keys divided among them."""
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    q, k, v = torch.randn(3, sum(lengths), 4, 20)
    last, each = bounds[1:].long() - 1, torch.arange(len(bounds), dtype=torch.int32)
    args = AttentionArgs(0.2, causal=True)

    def answers() -> tuple[Tensor | None, Tensor | None]:
        return (
            attention.varlen_attention(q, k, v, bounds, bounds, args),
            attention.varlen_attention(q[last], k, v, each, bounds, args),
        )  # fmt: skip

    torch.set_num_threads(1)
    alone = answers()
    torch.testing.assert_close(alone[1], alone[0][last])
    for num_threads in THREADS:
        torch.set_num_threads(num_threads)
        torch.testing.assert_close(answers(), alone, rtol=2e-6, atol=2e-6)
