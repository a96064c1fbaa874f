"""A mutex in shared memory whose owner was killed: whether who waits for it is told of that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Two processes over the C library, as the stub and the server: a robust mutex in a mapped file.
_PROGRAM = """
import ctypes, mmap, os, signal, sys, threading

from atoll.serving.robust_mutexes import end_without_marks

class Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

libc = ctypes.CDLL(None)
shared = mmap.mmap(-1, 4096)
mutex = ctypes.byref(ctypes.c_char.from_buffer(shared))
attributes = ctypes.byref(ctypes.create_string_buffer(64))
assert libc.pthread_mutexattr_init(attributes) == 0
assert libc.pthread_mutexattr_setpshared(attributes, 1) == 0
assert libc.pthread_mutexattr_setrobust(attributes, 1) == 0
assert libc.pthread_mutex_init(mutex, attributes) == 0

def lock_and_die():
    for _ in range(2):
        if sys.argv[1] == "without":
            end_without_marks()
    assert libc.pthread_mutex_lock(mutex) == 0
    os.kill(os.getpid(), signal.SIGKILL)

pid = os.fork()
if pid == 0:
    if sys.argv[2] == "main":
        lock_and_die()
    thread = threading.Thread(target=lock_and_die)
    thread.start()
    thread.join()
assert os.waitpid(pid, 0)[1] == signal.SIGKILL
until = Time()
libc.clock_gettime(0, ctypes.byref(until))
until.seconds += 1
print(os.strerror(libc.pthread_mutex_timedlock(mutex, ctypes.byref(until))))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="robust futexes are Linux's")
@pytest.mark.parametrize("thread", ["main", "another"])
def test_a_killed_process_leaves_no_marks(tmp_path: Path, thread: str) -> None:
    """A stub that was killed while it sent aborted the whole server, which was told of the mutex's
    dead owner and threw boost::interprocess::lock_exception."""
    said = []
    for how in ("with", "without"):
        run = subprocess.run(
            [sys.executable, "-c", _PROGRAM, how, thread],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            timeout=60,
        )
        said.append(run.stdout.strip())
    assert said == ["Owner died", "Connection timed out"]
