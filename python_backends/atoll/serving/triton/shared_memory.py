"""How much shared memory is free: responses pass through it, and Triton's backend does not recover
from a response for which there is no room.

A model's pool grows by a megabyte at a time, from the shared memory of the machine, or, by default
64 MB, of the container.
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
# Other processes may take so much in the meantime.
_MARGIN_BYTES = 16 * 2**20
# The pool grows by at least so much; a message without room crashes the whole process.
_GROWTH_BYTES = 2 * 2**20
# Room for a few of the backend's own messages.
_MESSAGES_BYTES = 2**16
# How long to wait for the lock.
_PATIENCE_S = 1.0


@contextlib.contextmanager
def held(num_bytes: int) -> Iterator[None]:
    """Keeps other models' processes from taking free memory while it is scarce.

    An advisory lock (``flock``) on the folder, which only our processes use. If another process
    holds it for long (because it is stopped), the caller goes on without it.
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
    """Whether there is certainly room for a response."""
    return _num_free_bytes() > 2 * num_bytes + _MARGIN_BYTES


def has_room(num_bytes: int) -> bool:
    """Whether there is room for a response now, if no other process takes it."""
    if is_exhausted():
        return _num_free_in_pool() >= 2 * num_bytes + _MESSAGES_BYTES
    return _num_free_bytes() >= 2 * num_bytes + _GROWTH_BYTES


def is_exhausted() -> bool:
    """Whether the pool cannot grow any more."""
    return _num_free_bytes() < _GROWTH_BYTES


def has_room_for_messages() -> bool:
    """Whether there is room for an empty response, or a request between models."""
    return has_room(0)


def free_text() -> str:
    """How much is free, for error messages."""
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
    """In this model's pool. Only to be called while the pool cannot grow, since the backend remaps
    a grown pool without a lock."""
    found = getattr(sys.modules.get("c_python_backend_utils"), "shared_memory", None)
    return _MESSAGES_BYTES if found is None else int(found.free_memory())
