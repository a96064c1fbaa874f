"""Keeps the sudden end of a model's process from ending the whole server.

The stub sends, asks and counts under mutexes in shared memory that are robust: when a thread ends
that holds one, the kernel marks it, and who locks it next is told. Triton's Python backend does not
expect that: in the server it is an exception (boost::interprocess::lock_exception) that nobody
catches, so that a stub killed at a bad moment aborts the server with all its models (seen in 2.51).

The kernel finds a thread's mutexes by a list whose head the thread has registered when it began. A
thread that registers an empty list instead ends without marks. The server then waits for the mutex
in a thread that belonged to that stub, and everything else goes on.
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


# For all threads and as long as any of them lives: the kernel only reads it.
_EMPTY = _Head()
_EMPTY.next = ctypes.addressof(_EMPTY)
_LIBC = ctypes.CDLL(None)
_thread = threading.local()


def end_without_marks() -> None:
    """For the calling thread, before it locks what it shares with the server.

    Again and again costs a look at a variable. A no-op where the system call's number is not known.
    """
    if not getattr(_thread, "is_done", False):
        _thread.is_done = True
        if (number := _CALLS.get(platform.machine())) is not None:
            size = ctypes.c_size_t(ctypes.sizeof(_EMPTY))
            _LIBC.syscall(ctypes.c_long(number), ctypes.byref(_EMPTY), size)
