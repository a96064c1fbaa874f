"""Compiles every production wrapper for a GPU that is not here, and reports what came out.

Run in a process of its own (``python gpu_compile.py sm90 [case ...]``), because whether Triton-lang
interprets or compiles is fixed when a kernel is decorated. A fake driver names the target, and
launches stop after the compiler; the wrappers run as they are, with CPU tensors. Prints one JSON
object per compiled kernel; with ``--names``, nothing is compiled, and each has a name and the hash
by which the compiler finds it again.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import triton
from triton._C.libtriton import get_cache_invalidating_env_vars
from triton.backends.compiler import GPUTarget
from triton.runtime.cache import get_cache_key
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_TENSOR_CORES = re.compile(r"\b(HMMA|HGMMA|DMMA|v_mfma\w*)\b")


class _FakeDriver:
    """Answers what the compiler asks about a device that does not exist."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty


def target_of(architecture: str) -> GPUTarget:
    """``sm75`` or ``gfx90a`` as the compiler names it."""
    if architecture.startswith("sm"):
        return GPUTarget("cuda", int(architecture[2:]), 32)
    return GPUTarget("hip", architecture, 64)


@contextmanager
def compiling_for(architecture: str) -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """Within, launches compile for the target and are listed; nothing runs."""
    compiled: list[tuple[Any, dict[str, Any]]] = []
    original = JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = original(self, *args, grid=grid, warmup=True, **kwargs)
        compiled.append((kernel, kwargs))
        return kernel

    driver.set_active(_FakeDriver(target_of(architecture)))
    JITFunction.run = run
    try:
        yield compiled
    finally:
        JITFunction.run = original


def name_only() -> None:
    """From now on, launches find out which kernel they need, and do not compile it."""

    def named(
        self: Any, key: str, signature: Any, device: int, constexprs: Any, options: Any, attrs: Any,
        warmup: bool,
    ) -> Any:  # fmt: skip
        kernels, _, _, backend, _ = self.device_caches[device]
        source = self.ASTSource(self, signature, constexprs, attrs)
        found = get_cache_key(source, backend, options, get_cache_invalidating_env_vars())
        metadata = SimpleNamespace(name=self.fn.__name__)
        kernels[key] = SimpleNamespace(hash=found, metadata=metadata)
        return kernels[key]

    JITFunction._do_compile = named


@cache
def describe(kernel: Any) -> dict[str, Any]:
    """Name, a hash, shared memory, threads, registers, spilled bytes, tensor-core instructions."""
    if "cubin" in kernel.asm:
        registers, spills, code = _nvidia(kernel.asm["cubin"], "tt.dot" in kernel.asm["ttir"])
    else:
        code = kernel.asm["amdgcn"]
        registers = int(_number(r"\.vgpr_count:\s+(\d+)", code))
        spills = int(_number(r"\.vgpr_spill_count:\s+(\d+)", code))
    found = sorted({m.split("_f32")[0] for m in _TENSOR_CORES.findall(code)})
    return {
        "kernel": kernel.metadata.name, "hash": kernel.hash, "shared": kernel.metadata.shared,
        "threads": kernel.metadata.num_warps * kernel.metadata.target.warp_size,
        "registers": registers, "spills": spills, "tensor_cores": found,
    }  # fmt: skip


def _nvidia(cubin: bytes, has_products: bool) -> tuple[int, int, str]:
    """Registers, spills and code, which is looked at only if it may have either; that takes a third
    of the time of compiling it."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _cuobjdump("-res-usage", file.name)
        # What is spilled goes to the stack.
        is_plain = not has_products and not int(_number(r"STACK:(\d+)", usage))
        code = "" if is_plain else _cuobjdump("-sass", file.name)
    spills = len(re.findall(r"\b(?:STL|LDL)\b", code))
    return int(_number(r"REG:(\d+)", usage)), spills, code


def _cuobjdump(*arguments: str) -> str:
    command = [str(_TOOLS / "cuobjdump"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _number(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, f"no {pattern} in the tool's output"
    return match.group(1)


def main(architecture: str, *wanted: str) -> None:
    """Prints a JSON line per kernel of each case."""
    from gpu_cases import CASES

    is_named = "--names" in wanted
    if is_named:
        name_only()
    for name, case in CASES.items():
        if wanted and name not in wanted:
            continue
        with compiling_for(architecture) as compiled:
            case()
        for kernel, _ in compiled:
            about = {"kernel": kernel.metadata.name, "hash": kernel.hash}
            about = about if is_named else describe(kernel)
            print(json.dumps({"case": name, "architecture": architecture, **about}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
