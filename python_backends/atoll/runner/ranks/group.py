"""torch.distributed's process group: joined before the model is built, left before a rank ends.

On one machine, ranks find each other through a file, and the ports that gloo and NCCL open are
bound to the loopback interface. ``TCPStore`` listens on all networks and is used for several
machines only. The traffic of the group is not authenticated, so several machines need a private
network.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from atoll.errors import ConfigError

# The limit of collectives is longer than that of messages, whose errors are more precise.
_EXTRA_S = 5.0
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_MAPS = Path("/proc/self/maps")
_NCCL_FILE = re.compile(r"/dev/shm/nccl-\S+")


def file_store(path: Path, size: int) -> tuple[str, Any]:
    """For one machine: what is sent to followers, and rank 0's store."""
    return str(path), dist.FileStore(str(path), size)  # type: ignore[attr-defined]


def tcp_store(size: int, timeout_s: float) -> tuple[str, Any]:
    """For several machines: the port, which is sent to followers, and rank 0's store."""
    store = dist.TCPStore(  # type: ignore[attr-defined]
        "0.0.0.0", 0, size, is_master=True, timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
    )  # fmt: skip
    return str(store.port), store


def store_of(told: str, host: str | None, size: int, timeout_s: float) -> Any:
    """A follower's store. host: rank 0's machine; None: this one."""
    if not told.isdecimal():
        return dist.FileStore(told, size)  # type: ignore[attr-defined]
    return dist.TCPStore(  # type: ignore[attr-defined]
        host or "127.0.0.1", int(told), size, is_master=False, timeout=timedelta(seconds=timeout_s)
    )


def join(
    store: Any, rank: int, size: int, device: torch.device, timeout_s: float, *, is_local: bool
) -> None:
    """Returns once all ranks have joined.

    timeout_s: the longest that ranks wait for each other. is_local: all are on this machine.

    Raises:
        ConfigError: torch was built without the device's backend.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    is_there = dist.is_nccl_available() if device.type == "cuda" else dist.is_gloo_available()
    if not is_there:
        raise ConfigError(f"num_shard is {size}; torch {torch.__version__} has no {backend}")
    options: dict[str, Any] = {"device_id": device} if device.type == "cuda" else {}
    with _on_loopback() if is_local else contextlib.nullcontext():
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=size,
            timeout=timedelta(seconds=timeout_s + _EXTRA_S), **options,
        )  # fmt: skip


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """gloo and NCCL read their interface from the environment; one that is given there is kept."""
    names = [name for name in _INTERFACES if name not in os.environ]
    os.environ.update(dict.fromkeys(names, "lo"))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


def leave() -> None:
    """To be called before the process ends, which NCCL otherwise aborts."""
    if dist.is_initialized():
        dist.destroy_process_group()


def remove_shared_memory() -> None:
    """Deletes the NCCL files that this process has mapped, which remain if a rank is killed."""
    with contextlib.suppress(OSError):
        for name in set(_NCCL_FILE.findall(_MAPS.read_text())):
            Path(name).unlink(missing_ok=True)
