"""The compiled kernels as Python functions, or why there are none."""

from __future__ import annotations

import ctypes
import logging
import os
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from atoll_kernels.cpu.graph import Replay, recording
from atoll_kernels.cpu.native.build import BuildError, Level, build, usable_levels

logger = logging.getLogger(__name__)


class Kernel:
    """A C function over one struct of 64-bit integers, then doubles.

    Packing all arguments at once takes a third of the time that ctypes needs to convert them one by
    one. The global interpreter lock is released during the call.
    """

    def __init__(self, library: ctypes.CDLL, name: str, integers: int, doubles: int) -> None:
        self._function = getattr(library, name)
        self._function.argtypes, self._function.restype = [ctypes.c_char_p], None
        self._address = ctypes.cast(self._function, ctypes.c_void_p).value or 0
        self._pack = struct.Struct(f"={integers}q{doubles}d").pack

    def __call__(self, dtype: torch.dtype, *values: float) -> None:
        """dtype: float32 or bfloat16, of what the kernel reads and writes."""
        arguments = self._pack(dtype == torch.bfloat16, torch.get_num_threads(), *values)
        self._function(arguments)
        if (graph := recording()) is not None:
            graph.kernel(self._address, arguments)


@dataclass(frozen=True)
class Library:
    """Kernels of one instruction set; the structs are in the sources, under the same names.

    replay: repeats recorded calls, see ``atoll_kernels.cpu.graph``. width: floats in a vector.
    """

    level: Level
    path: Path
    attention: Kernel
    norm: Kernel
    gated_norm: Kernel
    gates: Kernel
    activation: Kernel
    rope: Kernel
    linear: Kernel
    linear_quantized: Kernel
    linear_mxfp4: Kernel
    linear_int8_groups: Kernel
    causal_conv: Kernel
    gated_delta: Kernel
    selective_scan: Kernel
    selective_scan2: Kernel
    replay: Replay
    width: int

    @property
    def has_vnni(self) -> bool:
        """Whether there are instructions for 8-bit dot products."""
        return "avx512_vnni" in self.level.needs

    @property
    def has_tiles(self) -> bool:
        """Whether products of many rows use AMX."""
        return "amx_tile" in self.level.needs

    @property
    def has_bf16(self) -> bool:
        """Whether there are instructions for bfloat16 dot products."""
        return "avx512_bf16" in self.level.needs

    @classmethod
    def load(cls, level: Level, path: Path) -> Library:
        """Opens a shared object that ``build`` made."""
        opened = ctypes.CDLL(str(path))
        return cls(
            level,
            path,
            attention=Kernel(opened, "atoll_attention", 33, 2),
            norm=Kernel(opened, "atoll_norm", 14, 1),
            gated_norm=Kernel(opened, "atoll_gated_norm", 14, 1),
            gates=Kernel(opened, "atoll_gates", 12, 2),
            activation=Kernel(opened, "atoll_activation", 10, 0),
            rope=Kernel(opened, "atoll_rope", 22, 0),
            linear=Kernel(opened, "atoll_linear", 12, 0),
            linear_quantized=Kernel(opened, "atoll_linear_quantized", 16, 0),
            linear_mxfp4=Kernel(opened, "atoll_linear_mxfp4", 16, 0),
            linear_int8_groups=Kernel(opened, "atoll_linear_int8_groups", 16, 0),
            causal_conv=Kernel(opened, "atoll_causal_conv", 16, 0),
            gated_delta=Kernel(opened, "atoll_gated_delta", 27, 0),
            selective_scan=Kernel(opened, "atoll_selective_scan", 22, 0),
            selective_scan2=Kernel(opened, "atoll_selective_scan2", 27, 0),
            replay=_replay(opened),
            width=opened.atoll_width(),
        )


def _replay(opened: ctypes.CDLL) -> Replay:
    function: Replay = opened.atoll_replay
    opened.atoll_replay.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    opened.atoll_replay.restype = None
    return function


@cache
def library() -> Library | None:
    """The kernels for this machine, compiled if necessary; None without a compiler.

    ``ATOLL_CPU_ISA`` (portable, avx2, avx512, avx512_bf16, amx) forces an instruction set.
    """
    found = _load()
    if isinstance(found, str):
        logger.warning("no native CPU kernels, plain torch runs instead: %s", found)
        return None
    logger.info("native CPU kernels: %s", found.level.name)
    return found


def status() -> tuple[bool, str]:
    """Whether native kernels run here, and which, or why not; compiles them if necessary."""
    found = _load()
    if isinstance(found, str):
        return False, found
    return True, f"{found.level.name} ({found.path})"


@cache
def _load() -> Library | str:
    """The best level that can be built: old compilers do not support the newest instructions."""
    reasons = []
    try:
        for level in usable_levels(os.environ.get("ATOLL_CPU_ISA")):
            try:
                return Library.load(level, build(level))
            except BuildError as error:
                reasons.append(str(error))
    except (BuildError, OSError) as error:
        reasons.insert(0, str(error))
    return reasons[0]
