"""How much shared memory is free: responses travel through it, and Triton's backend cannot take a
response back for which it finds no room.

A model's pool grows by a megabyte at a time, out of what all processes of the machine (or, 64 MB by
default, of the container) share.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Mapping

from atoll.serving.triton.tensors import Array

_FOLDER = "/dev/shm"
# What others may take meanwhile.
_MARGIN_BYTES = 16 * 2**20
# By so much the pool grows at least; a message that finds no room ends the whole process.
_GROWTH_BYTES = 2 * 2**20
# What a few of the backend's own messages take.
_MESSAGES_BYTES = 2**16
# How long the lock is tried to be had.
_PATIENCE_S = 1.0


@contextlib.contextmanager
def held(num_bytes: int) -> Iterator[None]:
    """Keeps other models' processes from taking what this one finds free, where memory is scarce.

    An advisory lock (``flock``) on the folder; what is not ours does not know it. One who holds it
    for long (a process that is stopped) is not waited for.
    """
    if is_plentiful(num_bytes):
        yield
        return
    folder = os.open(_FOLDER, os.O_RDONLY)
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while not _is_locked(folder) and time.monotonic() < deadline:
            time.sleep(_PATIENCE_S / 1000)
        yield
    finally:
        os.close(folder)


def is_plentiful(num_bytes: int) -> bool:
    """Whether a response of so many bytes will find room."""
    return _num_free_bytes() > 2 * num_bytes + _MARGIN_BYTES


def has_room(num_bytes: int) -> bool:
    """Whether a response of so many bytes finds room now, if nobody else takes it."""
    if is_exhausted():
        return _num_free_in_pool() >= 2 * num_bytes + _MESSAGES_BYTES
    return _num_free_bytes() >= 2 * num_bytes + _GROWTH_BYTES


def is_exhausted() -> bool:
    """Whether the pool cannot grow any more."""
    return _num_free_bytes() < _GROWTH_BYTES


def has_room_for_messages() -> bool:
    """Whether an empty response, or a request between models, will find room."""
    return has_room(0)


def free_text() -> str:
    """Says in an error how much is free."""
    return f"{_num_free_bytes()} bytes free in shared memory ({_FOLDER})"


def num_bytes(outputs: Mapping[str, Array]) -> int:
    """Size of a response's tensors."""
    return sum(
        sum(len(item) for item in array.flat) if array.dtype == object else array.nbytes
        for array in outputs.values()
    )


def _is_locked(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _num_free_bytes() -> int:
    found = os.statvfs(_FOLDER)
    return found.f_bavail * found.f_frsize


def _num_free_in_pool() -> int:
    """Of this process's model. Only to be asked while the pool cannot grow: the backend maps a pool
    that has grown anew, and here without a lock."""
    found = getattr(sys.modules.get("c_python_backend_utils"), "shared_memory", None)
    return _MESSAGES_BYTES if found is None else int(found.free_memory())
