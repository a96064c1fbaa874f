"""A graph computes from new inputs what the function it was recorded from computes."""

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import Tensor

import atoll_kernels as kernels
from atoll_kernels.cpu import graph as graphs
from atoll_kernels.cpu import native
from atoll_kernels.cpu.graph import CpuGraph, Unrepeatable, empty, recording

needs_native = pytest.mark.skipif(native.library() is None, reason="there is no C++ compiler")
ROWS, WIDTH = 5, 64
R = TypeVar("R")


def record(function: Callable[[], R]) -> tuple[R, CpuGraph]:
    """What calls no kernels needs none to be recorded."""
    library = native.library()
    return graphs.record(function, library.replay if library is not None else _no_kernels)


def _no_kernels(calls: object, count: int) -> None:
    raise AssertionError("there are no native kernels")


@pytest.fixture(autouse=True)
def inference() -> object:
    with torch.inference_mode():
        yield


def layers(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Two residual layers of kernels, with torch between them."""
    generator = torch.Generator().manual_seed(0)

    def weights(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) / 8).to(dtype)

    ups = [kernels.pack_linear(weights(4 * WIDTH, WIDTH), None) for _ in range(2)]
    downs = [kernels.pack_linear(weights(WIDTH, 2 * WIDTH), None) for _ in range(2)]
    norm, shift = weights(WIDTH), weights(WIDTH)

    def run(x: Tensor) -> Tensor:
        residual = None
        for up, down in zip(ups, downs, strict=True):
            h, residual = kernels.rms_norm(x, norm, 1e-6, residual)
            h = kernels.gated_activation(kernels.linear(h, up), "silu")
            x = (kernels.linear(h, down) + shift).mul_(0.5)
        return x.float().view(-1, 2).flip(0).t()

    return run


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replayed_equals_run(dtype: torch.dtype) -> None:
    run, x = layers(dtype), torch.randn(ROWS, WIDTH).to(dtype)
    found, graph = record(lambda: run(x))
    assert torch.equal(found, run(x))
    assert graph.num_kernels >= 4 and recording() is None
    for _ in range(3):
        x.copy_(torch.randn(ROWS, WIDTH))
        expected = run(x)
        assert not torch.equal(found, expected)
        # Memory that others take in between is not the graph's.
        others = [torch.randn(ROWS, n * WIDTH) for n in (1, 2, 4) for _ in range(20)]
        graph.replay()
        assert torch.equal(found, expected)
        del others


@needs_native
def test_memory_is_used_again() -> None:
    """Thirty layers take the memory of a few, and what is still held is not overwritten."""
    x, weight = torch.randn(ROWS, WIDTH), torch.ones(WIDTH)

    def run() -> tuple[Tensor, Tensor]:
        first = y = kernels.rms_norm(x, weight, 1e-6)[0]
        for _ in range(30):
            y = kernels.rms_norm(y, weight, 1e-6)[0] + 0
        return first, y

    (first, _), graph = record(run)
    expected = run()[0].clone()
    graph.replay()
    assert torch.equal(first, expected)
    assert sum(map(len, graph._free.values())) <= 2


def test_memory_has_one_owner_at_a_time() -> None:
    """Of two tensors that live at once, only one gets what an earlier one left."""

    def run() -> tuple[Tensor, Tensor, int]:
        left = empty((ROWS, WIDTH), torch.float32).data_ptr()
        return empty((ROWS, WIDTH), torch.float32), empty((ROWS, WIDTH), torch.float32), left

    (first, second, left), _ = record(run)
    assert first.data_ptr() == left != second.data_ptr()


def test_operations_of_torch_alone() -> None:
    x = torch.randn(4, 6)
    kept = torch.zeros(4)

    def run() -> tuple[Tensor, Tensor, Tensor]:
        kept.copy_(x.sum(1)).clamp_(min=0)
        values, indices = x.topk(2)
        return x[1:3].reshape(-1).exp(), values, indices

    found, graph = record(run)
    x.copy_(torch.randn(4, 6))
    graph.replay()
    total = kept.clone()
    for a, b in zip(found, run(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(total, kept) and bool((total >= 0).all())


@pytest.mark.parametrize(
    "asks",
    [lambda x: x.sum().item(), lambda x: x.nonzero(), lambda x: x[x > 0], lambda x: bool(x[0] > 0)],
)
def test_what_depends_on_data_is_refused(asks: Callable[[Tensor], object]) -> None:
    x = torch.randn(8)
    with pytest.raises(Unrepeatable, match="aten"):
        record(lambda: asks(x))
    assert recording() is None


def test_other_threads_are_not_recorded() -> None:
    x, weight = torch.randn(ROWS, WIDTH), torch.ones(WIDTH)

    def elsewhere() -> None:
        kernels.rms_norm(x, weight, 1e-6)
        x + 1

    def run() -> Tensor:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return empty((2, 3), torch.bfloat16)

    found, graph = record(run)
    assert graph.num_kernels == 0 and graph._segments == []
    assert found.shape == (2, 3) and found.dtype is torch.bfloat16


def test_recording_does_not_import_torchs_compiler() -> None:
    """The first answer of every server waited two seconds for it."""
    script = """
import sys
import torch
from atoll_kernels.cpu.graph import record
sys.modules["torch._dynamo"] = None
with torch.inference_mode():
    record(lambda: torch.ones(2) + 1, None)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
