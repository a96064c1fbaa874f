"""A GPU that is not there: values on the host, behind tensors that say they are on ``cuda:0``.

Import it first, in a process of its own (``TRITON_INTERPRET=1``): it changes torch for good. Within
``GPU`` (a dispatch mode, of one thread), what is made on or moved to a GPU is such a tensor; an
operation that is given one together with a tensor of the host fails as it does on a real GPU, and
so does a kernel that is given the host's. Kernels are Triton-lang's, interpreted.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from interpreted import prepare_interpreter
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from triton.runtime import interpreter

from atoll.runner.decode_graphs import DecodeGraphs
from atoll_kernels.backends import Capabilities
from atoll_kernels.gpu import attention

CUDA = torch.device("cuda", 0)
# They take tensors of two devices; of the last, indices alone may be the host's.
_MOVES = ("aten::_to_copy", "aten::copy_", "aten::to")
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_")
# What torch.cuda says, and, in C++, what torch's builds for CPUs have nobody to ask.
_ANSWERS = {
    "_lazy_init": None, "set_device": None, "synchronize": None, "empty_cache": None,
    "reset_peak_memory_stats": None, "is_available": True, "device_count": 1,
    "mem_get_info": (1 << 24, 1 << 25), "memory_allocated": 0, "max_memory_allocated": 1 << 20,
    "get_device_capability": (9, 0), "get_device_properties": SimpleNamespace(uuid="pretended"),
}  # fmt: skip
_GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
using namespace c10;
struct Guard final : impl::DeviceGuardImplInterface {
  const Device gpu{DeviceType::CUDA, 0};
  const Stream stream{Stream::DEFAULT, gpu};
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return gpu; }
  Device getDevice() const override { return gpu; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override { return stream; }
  Stream exchangeStream(Stream) const override { return stream; }
  DeviceIndex deviceCount() const noexcept override { return 1; }
};
static impl::DeviceGuardImplRegistrar registrar(DeviceType::CUDA, new Guard());
"""


class OnGpu(Tensor):
    """``host``: the values; views share them."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> OnGpu:
        with torch.inference_mode(False):
            found: OnGpu = Tensor._make_wrapper_subclass(
                cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(),
                dtype=host.dtype, device=torch.device("meta"), dispatch_device=True,
            )  # fmt: skip
        found.host = host
        return found

    def __getitem__(self, index: Any) -> OnGpu:
        with _disable_current_modes():
            return OnGpu(self.host[_hosted(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        _refuse_hosts(value)
        with _disable_current_modes():
            self.host[_hosted(index)] = _hosted(value)

    def tolist(self) -> Any:
        return self.host.tolist()

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class GPU(TorchDispatchMode):
    """Within, there is a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    if func is torch.ops.prim.device.default:
        return CUDA
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    known = {id(x.host): x for x in tensors if isinstance(x, OnGpu)}
    name = func._schema.name
    if known and name not in _MOVES:
        _refuse_hosts((args[0], args[2:]) if name in _INDEXED else (args, kwargs))
    devices = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.device)]
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    args, kwargs = tree_map(_hosted_argument, (args, kwargs))
    out = func(*args, **kwargs)
    is_on_gpu = devices[0].type == "cuda" if devices else bool(known)

    def wrapped(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if not is_on_gpu:
            return x.clone() if id(x) in known else x
        return known[id(x)] if id(x) in known else OnGpu(x)

    return tensors[0] if name == "aten::copy_" else tree_map(wrapped, out)


def _hosted_argument(x: Any) -> Any:
    return torch.device("cpu") if isinstance(x, torch.device) else _hosted(x)


def _hosted(x: Any) -> Any:
    return tree_map(lambda leaf: leaf.host if isinstance(leaf, OnGpu) else leaf, x)


def _refuse_hosts(x: Any) -> None:
    for leaf in tree_leaves(x):
        if isinstance(leaf, Tensor) and not isinstance(leaf, OnGpu) and leaf.dim():
            raise RuntimeError(f"a tensor of the host among the GPU's: {tuple(leaf.shape)}")


def _indexed(which: Any) -> Any:
    plain = Tensor.__getitem__

    def getitem(self: Tensor, index: Any) -> Tensor:
        if any(isinstance(leaf, OnGpu) for leaf in tree_leaves(index)):
            raise RuntimeError("a tensor of the host, indexed by the GPU's")
        return plain(self, index)

    return getitem


def _tensor(make: Any) -> Any:
    """torch.tensor fills what it makes behind every dispatcher's back."""
    return lambda data, *rest, device=None, **options: (
        make(data, *rest, **options) if device is None else make(data, *rest, **options).to(device)
    )


def _launched(call: Any) -> Any:
    def launch(self: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_hosts((args, kwargs))
        hosted = {name: _hosted(value) for name, value in kwargs.items()}
        return call(self, *map(_hosted, args), **hosted)

    return launch


def _load_guard() -> None:
    torch_folder = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "guard.cpp", Path(folder) / "guard.so"
        source.write_text(_GUARD)
        subprocess.run(
            ["g++", "-std=c++20", "-fPIC", "-shared", source, "-o", library,
             f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}", "-lc10"],
            check=True,
        )  # fmt: skip
        ctypes.CDLL(str(library))


def _install() -> None:
    _load_guard()
    prepare_interpreter()
    card = Capabilities("pretended", "interpreter", "interpreter")
    Capabilities.of = classmethod(lambda cls, device: card)  # type: ignore[assignment,method-assign]
    attention.capabilities_of = lambda device: card
    DecodeGraphs.capture = lambda self, may_fail=True: None  # type: ignore[method-assign]
    interpreter.GridExecutor.__call__ = _launched(interpreter.GridExecutor.__call__)
    Tensor.__getitem__ = _indexed(Tensor)  # type: ignore[method-assign]
    torch.tensor = _tensor(torch.tensor)
    for name, value in _ANSWERS.items():
        # One function each: torch keeps a table of its functions, and refuses one found twice.
        setattr(torch.cuda, name, lambda *_, value=value: value)


_install()
