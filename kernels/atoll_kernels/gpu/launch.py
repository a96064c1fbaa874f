"""How a kernel is launched on the architecture at hand: its row of ``tiles``, and precision."""

from __future__ import annotations

from functools import cache

import torch
import triton

from atoll_kernels.gpu.tiles import AMPERE, SAME, SMALL, TABLE, Launch

_INTERPRETER = "interpreter"

# Architectures with the same shared memory as a listed one.
_LIKE = {
    "sm87": "sm80", "sm100": "sm90", "sm103": "sm90", "sm110": "sm90", "sm120": "sm89",
    "sm121": "sm89", "gfx908": "gfx90a", "gfx942": "gfx90a", "gfx950": "gfx90a",
}  # fmt: skip

ARCHITECTURES = ("sm75", "sm80", "sm86", "sm89", "sm90", "gfx90a")

# Multiprocessors of the largest common card.
_PROCESSORS = {"sm75": 40, "sm80": 108, "sm86": 84, "sm89": 142, "sm90": 132, "gfx90a": 104}


@cache
def architecture() -> str:
    """What kernels are compiled for: ``sm75`` to ``sm90``, ``gfx90a``, or ``interpreter``."""
    if triton.knobs.runtime.interpret:
        return _INTERPRETER
    target = triton.runtime.driver.active.get_current_target()
    name = f"sm{target.arch}" if target.backend == "cuda" else str(target.arch).split(":")[0]
    name = _LIKE.get(name, name)
    return name if name in ARCHITECTURES else ("sm90" if name.startswith("sm") else "gfx90a")


def configuration(op: str, bucket: str) -> Launch:
    """The row of the table for the architecture at hand.

    Raises:
        KeyError: no such op or bucket.
    """
    name = architecture()
    if name == _INTERPRETER:
        return SMALL[op]
    rows = TABLE[SAME.get((op, bucket), (op, bucket))]
    return rows[name] if name in rows else rows[AMPERE]


def dividing(depth: int, group: int) -> int:
    """``depth`` halved until it divides ``group``, so that a tile has one row of scales."""
    while group % depth:
        depth //= 2
    return depth


def num_processors() -> int:
    """Multiprocessors of this architecture's cards; the same on all, so that results repeat."""
    return _PROCESSORS.get(architecture(), 4)


def max_warps() -> int:
    """Warps in a block of 1024 threads; AMD's have 64 lanes."""
    return 16 if architecture().startswith("gfx") else 32


def width(dtype: torch.dtype) -> str:
    """``half`` or ``wide``, by the size of an element."""
    return "half" if dtype.itemsize == 2 else "wide"


def precision(dtype: torch.dtype) -> str:
    """How ``tl.dot`` multiplies float32: exactly, or as three products of tf32 parts, which is as
    close on tensor cores; never rounded to one tf32.
    """
    has_tf32 = architecture() in ("sm80", "sm86", "sm89", "sm90")
    return "tf32x3" if dtype == torch.float32 and has_tf32 else "ieee"
