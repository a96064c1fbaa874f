"""Prevents the server from crashing when a model's process is killed.

The stub and the server share robust mutexes in shared memory: if a thread ends while it holds one,
the kernel marks the mutex, and the next locker gets an error. In Triton's Python backend that is an
uncaught exception (boost::interprocess::lock_exception), so that a stub that is killed at the wrong
moment aborts the server with all its models (seen in 2.51).

The kernel finds a thread's mutexes through a list whose head the thread has registered at its
start. If a thread registers an empty list instead, its mutexes are not marked. The server then
blocks in a thread that only serves this stub, and everything else goes on.
"""

from __future__ import annotations

import ctypes
import platform
import threading

# Number of set_robust_list, by machine.
_CALLS = {"x86_64": 273, "aarch64": 99}


class _Head(ctypes.Structure):
    """struct robust_list_head of linux/futex.h; a list is empty whose head points to itself."""

    _fields_ = (
        ("next", ctypes.c_void_p),
        ("futex_offset", ctypes.c_long),
        ("pending", ctypes.c_void_p),
    )


# Shared by all threads, and never freed: the kernel only reads it.
_EMPTY = _Head()
_EMPTY.next = ctypes.addressof(_EMPTY)
_LIBC = ctypes.CDLL(None)
_thread = threading.local()


def end_without_marks() -> None:
    """Called by each thread before it locks a mutex that it shares with the server.

    Repeated calls are cheap. Does nothing on machines whose system call number is not known.
    """
    if not getattr(_thread, "is_done", False):
        _thread.is_done = True
        if (number := _CALLS.get(platform.machine())) is not None:
            size = ctypes.c_size_t(ctypes.sizeof(_EMPTY))
            _LIBC.syscall(ctypes.c_long(number), ctypes.byref(_EMPTY), size)
