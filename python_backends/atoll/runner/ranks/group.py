"""torch.distributed's process group: joined before the model is built, left before a rank ends.

On one machine ranks find each other through a file, so that no port is opened; ``TCPStore`` listens
on all networks, and is for several machines only. What they then say to each other is not
authenticated in either case: between machines, a private network is a condition.
"""

from __future__ import annotations

import contextlib
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from atoll.errors import ConfigError

# Collectives wait a little longer than messages, whose errors say more.
_EXTRA_S = 5.0
_MAPS = Path("/proc/self/maps")
_NCCL_FILE = re.compile(r"/dev/shm/nccl-\S+")


def file_store(path: Path, size: int) -> tuple[str, Any]:
    """For ranks of one machine: what followers are told, and rank 0's own."""
    return str(path), dist.FileStore(str(path), size)  # type: ignore[attr-defined]


def tcp_store(size: int, timeout_s: float) -> tuple[str, Any]:
    """For ranks of several machines: the port, which is chosen here, and rank 0's own."""
    store = dist.TCPStore(  # type: ignore[attr-defined]
        "0.0.0.0", 0, size, is_master=True, timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
    )  # fmt: skip
    return str(store.port), store


def store_of(told: str, host: str | None, size: int, timeout_s: float) -> Any:
    """A follower's. host: rank 0's machine; None: this one."""
    if not told.isdecimal():
        return dist.FileStore(told, size)  # type: ignore[attr-defined]
    return dist.TCPStore(  # type: ignore[attr-defined]
        host or "127.0.0.1", int(told), size, is_master=False, timeout=timedelta(seconds=timeout_s)
    )


def join(store: Any, rank: int, size: int, device: torch.device, timeout_s: float) -> None:
    """Returns once all ranks have joined. timeout_s: the longest that ranks wait for each other.

    Raises:
        ConfigError: torch was built without the device's way to communicate.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    is_there = dist.is_nccl_available() if device.type == "cuda" else dist.is_gloo_available()
    if not is_there:
        raise ConfigError(f"num_shard is {size}; torch {torch.__version__} has no {backend}")
    options: dict[str, Any] = {"device_id": device} if device.type == "cuda" else {}
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=size,
        timeout=timedelta(seconds=timeout_s + _EXTRA_S), **options,
    )  # fmt: skip


def leave() -> None:
    """NCCL aborts the process if it ends first."""
    if dist.is_initialized():
        dist.destroy_process_group()


def remove_shared_memory() -> None:
    """Deletes NCCL's files that this process has mapped; they stay if a rank is killed."""
    with contextlib.suppress(OSError):
        for name in set(_NCCL_FILE.findall(_MAPS.read_text())):
            Path(name).unlink(missing_ok=True)
