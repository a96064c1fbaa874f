"""Compiles the C++ sources for one instruction set into a shared object in the user's cache.

The file name contains a hash of sources, flags and compiler, so that an outdated one is never used.
If several processes need it at once, one compiles while the others wait for its lock.

``ATOLL_KERNELS`` names a folder in which ``build_all`` has compiled every instruction set ahead of
time, for images without a compiler.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.pool import ThreadPool
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "src"

# Multiply-adds may be fused; no other floating-point optimization is allowed, to preserve NaN.
_FLAGS = (
    "-std=c++17", "-O3", "-pthread", "-fPIC", "-fvisibility=hidden", "-fno-math-errno",
    "-ffp-contract=fast", "-Wall", "-Wextra", "-Wno-uninitialized",
    "-Wno-maybe-uninitialized", "-Wno-psabi",
)  # fmt: skip
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mavx2")


class BuildError(Exception):
    """There is no compiler, or it failed; the message has its output."""


@dataclass(frozen=True)
class Level:
    """An instruction set. needs: names in /proc/cpuinfo. flags: for the compiler."""

    name: str
    needs: tuple[str, ...]
    flags: tuple[str, ...]


_NEEDS_BF16 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16")
_FLAGS_BF16 = (*_AVX512, "-mavx512vnni", "-mavx512bf16")
LEVELS = (
    Level(
        "amx",
        (*_NEEDS_BF16, "amx_tile", "amx_bf16", "amx_int8"),
        (*_FLAGS_BF16, "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
    ),
    Level("avx512_bf16", _NEEDS_BF16, _FLAGS_BF16),
    Level("avx512", ("avx512f", "avx512bw", "avx512dq", "avx512vl"), _AVX512),
    Level("avx2", ("avx2", "fma", "f16c"), ("-mavx2", "-mfma", "-mf16c")),
    Level("portable", (), ()),
)


@cache
def cpu_flags() -> frozenset[str]:
    """The instruction sets in /proc/cpuinfo; empty without that file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split() for line in lines if line.startswith("flags")), []))


def usable_levels(forced: str | None = None) -> tuple[Level, ...]:
    """The levels that this machine supports, best first, or only ``forced``.

    Raises:
        BuildError: ``forced`` is unknown, or the machine does not support it.
    """
    if not forced:
        return tuple(level for level in LEVELS if cpu_flags().issuperset(level.needs))
    chosen = {level.name: level for level in LEVELS}.get(forced)
    if chosen is None:
        names = ", ".join(level.name for level in LEVELS)
        raise BuildError(f"ATOLL_CPU_ISA is {forced!r}; it can be {names}")
    missing = sorted(set(chosen.needs) - cpu_flags())
    if missing:
        raise BuildError(f"ATOLL_CPU_ISA is {forced!r}; this machine lacks {', '.join(missing)}")
    return (chosen,)


def build(level: Level, sanitizers: str = "") -> Path:
    """The shared object for ``level``, compiled if necessary.

    sanitizers: for ``-fsanitize``; their runtime must be loaded before such a build.

    Raises:
        BuildError: it cannot be compiled here.
    """
    extra = (f"-fsanitize={sanitizers}", "-g1", "-O1") if sanitizers else ()
    flags = (*_FLAGS, *level.flags, *extra)
    ahead = _ahead(level, flags)
    if ahead is not None and ahead.exists():
        return ahead
    compiler = _compiler()
    # Another compiler's product may need other runtime libraries.
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    target = _folder() / f"{level.name}-{_key(version, flags)}.so"
    return _made(target, compiler, flags)


def build_all() -> list[Path]:
    """Compiles all instruction sets of this architecture into ``$ATOLL_KERNELS``.

    Raises:
        BuildError: ``ATOLL_KERNELS`` is not set, or a level cannot be compiled.
    """
    levels = LEVELS if platform.machine() in ("x86_64", "AMD64") else LEVELS[-1:]
    made = []
    for level in levels:
        flags = (*_FLAGS, *level.flags)
        target = _ahead(level, flags)
        if target is None:
            raise BuildError("ATOLL_KERNELS is not set; it names the folder")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _made(target, _compiler(), flags)
        made.append(target)
    return made


def _compiler() -> str:
    found = next((path for name in ("g++", "c++") if (path := shutil.which(name))), None)
    if found is None:
        raise BuildError("there is no C++ compiler (g++)")
    return found


def _ahead(level: Level, flags: Sequence[str]) -> Path | None:
    """Where ``build_all`` puts the level; whatever the compiler, which may be gone since."""
    folder = os.environ.get("ATOLL_KERNELS")
    return Path(folder) / f"{level.name}-{_key('', flags)}.so" if folder else None


def _made(target: Path, compiler: str, flags: Sequence[str]) -> Path:
    if target.exists():
        return target
    # Both lines are also read by whoever shows how far a start has come.
    logger.info("compiling native CPU kernels", extra={"phase": ("kernels", "begin")})
    with (target.parent / f"{target.stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _compile(compiler, flags, target)
    logger.info("compiled native CPU kernels", extra={"phase": ("kernels", "end")})
    return target


def _compile(compiler: str, flags: Sequence[str], target: Path) -> None:
    """One process per source; the result is renamed to ``target`` when it is complete."""
    sources = sorted(SOURCES.glob("*.cpp"))
    # More compilers than cores would only keep other processes from them, and take memory.
    num_jobs = min(len(sources), len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(dir=target.parent) as name, ThreadPool(num_jobs) as pool:
        objects = [str(Path(name) / f"{source.stem}.o") for source in sources]
        pairs = zip(map(str, sources), objects, strict=True)
        pool.map(_run, [[compiler, *flags, "-c", source, "-o", out] for source, out in pairs])
        output = str(Path(name) / target.name)
        _run([compiler, *flags, "-shared", *objects, "-o", output])
        os.replace(output, target)


def _run(command: Sequence[str]) -> None:
    pipe = subprocess.PIPE
    done = subprocess.run(command, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise BuildError(f"the compiler failed:\n{done.stdout[-2000:]}")


def _key(version: str, flags: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in (platform.machine(), version, *flags):
        digest.update(text.encode() + b"\0")
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _folder() -> Path:
    """``$ATOLL_CACHE/kernels`` or the user's cache, or a temporary folder if that is read-only."""
    own = os.environ.get("ATOLL_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = (Path(own) if own else Path(base) / "atoll") / "kernels"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        return folder
    # Owned by the user and closed to others, who could replace the library.
    private = Path(tempfile.gettempdir()) / f"atoll-kernels-{os.getuid()}"
    private.mkdir(mode=0o700, exist_ok=True)
    if private.stat().st_uid != os.getuid():
        raise BuildError(f"{private} belongs to another user")
    return private
