"""CUDA graphs for the CPU: a function's kernel calls are recorded once and replayed without Python.

A decoding step is about a hundred kernel calls of a few microseconds each, with as much time in
Python between them. ``record`` runs a function over tensors whose memory is fixed, and records
every native kernel with its arguments and every torch operation. ``CpuGraph.replay`` repeats them
over the same memory; consecutive kernels are one call.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

R = TypeVar("R")
Replay = Callable[[ctypes.c_void_p, int], None]
_ALIGNMENT = 64
_UNREPEATABLE = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
# They allocate memory without writing it.
_EMPTIES = (
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.empty_like.default,
)
_local = threading.local()


class Unrepeatable(Exception):
    """The function needs a value or a shape that depends on the data."""


class CpuGraph:
    """The recorded calls of a function, with the memory that they use.

    replay: calls kernels, given the address of an array of (function, arguments) and its length.
    """

    def __init__(self, replay: Replay) -> None:
        self._replay_kernels = replay
        self._segments: list[Callable[[], object]] = []
        self._kernels: list[tuple[int, bytes]] = []
        # Keeps the arguments of kernels alive.
        self._held: list[Any] = []
        self._free: defaultdict[int, list[npt.NDArray[np.uint8]]] = defaultdict(list)
        self.num_kernels = 0

    def replay(self) -> None:
        """Repeats all calls, on whatever the inputs contain now."""
        for segment in self._segments:
            segment()

    def kernel(self, address: int, arguments: bytes) -> None:
        """Records a call of a native kernel."""
        self._kernels.append((address, arguments))
        self.num_kernels += 1

    def operation(self, repeat: Callable[[], object]) -> None:
        """Records a torch operation; ``repeat`` keeps its tensors alive."""
        self.close()
        self._segments.append(repeat)

    def close(self) -> None:
        """Turns the kernels since the last torch operation into one call."""
        if not self._kernels:
            return
        words = np.empty((len(self._kernels), 2), np.uint64)
        for row, (address, arguments) in zip(words, self._kernels, strict=True):
            row[:] = address, _address(arguments)
        self._held.append((words, self._kernels))
        pointer, count = ctypes.c_void_p(words.ctypes.data), len(words)
        self._segments.append(lambda: self._replay_kernels(pointer, count))
        self._kernels = []

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory of the graph, which is reused once no tensor of the recording refers to it."""
        num_bytes = math.prod(shape) * dtype.itemsize
        size = -(-max(num_bytes, 1) // _ALIGNMENT) * _ALIGNMENT
        free = self._free[size]
        buffer = free.pop() if free else _aligned(size)
        # The tensor's storage keeps this view alive; its end releases the buffer.
        view = buffer[:num_bytes]
        weakref.finalize(view, free.append, buffer).atexit = False
        return torch.from_numpy(view).view(dtype).view(tuple(shape))


class _Recorder(TorchDispatchMode):
    """Records what torch computes; views and allocations need not be repeated."""

    def __init__(self, graph: CpuGraph) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = graph

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be skipped by torch's compiler, it imports that, for 2 s of the first request."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:
            # In inference mode, composite operations are not decomposed before they get here.
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        is_given = kwargs.get("output_size") is not None
        if not is_given and any(tag in func.tags for tag in _UNREPEATABLE):
            raise Unrepeatable(str(func))
        out = func(*args, **kwargs)
        if func._schema.is_mutable:
            self._graph.operation(lambda: func(*args, **kwargs))
        elif func not in _EMPTIES and not _are_views(out, (args, kwargs)):
            if isinstance(out, Tensor):
                self._graph.operation(lambda: out.copy_(func(*args, **kwargs)))
            else:
                self._graph.operation(lambda: _copy(out, func(*args, **kwargs)))
        return out


def record(function: Callable[[], R], replay: Replay) -> tuple[R, CpuGraph]:
    """Runs a function on this thread; returns its result, and the graph that computes it again.

    replay: as of ``CpuGraph``.

    The function's Python code is not replayed, so it must not depend on the values of tensors. Call
    it, and ``replay``, in inference mode.

    Raises:
        Unrepeatable: an operation's result is a number, or its shape depends on the data.
    """
    graph = CpuGraph(replay)
    _local.graph = graph
    try:
        with _Recorder(graph):
            result = function()
    finally:
        _local.graph = None
    graph.close()
    return result, graph


def recording() -> CpuGraph | None:
    """The graph that this thread is recording."""
    return getattr(_local, "graph", None)


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """``torch.empty``, in the graph's memory while one is recorded."""
    graph = recording()
    return torch.empty(shape, dtype=dtype) if graph is None else graph.empty(shape, dtype)


def _copy(kept: Any, found: Any) -> None:
    for old, new in zip(tree_leaves(kept), tree_leaves(found), strict=True):
        if isinstance(old, Tensor):
            old.copy_(new)


def _are_views(out: Any, given: Any) -> bool:
    known = {_storage(x) for x in tree_leaves(given) if _has_storage(x)}
    return all(_storage(x) in known for x in tree_leaves(out) if isinstance(x, Tensor))


def _has_storage(x: Any) -> bool:
    """oneDNN's packed weights have none that can be compared."""
    return isinstance(x, Tensor) and x.layout is torch.strided


def _address(content: bytes) -> int:
    """The address of the content, which is fixed while the object lives."""
    return ctypes.cast(ctypes.c_char_p(content), ctypes.c_void_p).value or 0


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size]
