"""The pool of threads by which native kernels share work: every task is done, and done once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import native
import pytest

from atoll_kernels.cpu.native.build import SOURCES

DRIVER = Path(native.__file__).with_name("threads_driver.cpp")


@pytest.mark.parametrize(
    ("flags", "jobs", "callers", "forks"),
    [
        pytest.param(["-O2"], 20000, 1, 1, id="one caller, and a forked child"),
        pytest.param(["-O2"], 5000, 3, 0, id="callers at once"),
        pytest.param(["-O1", "-fsanitize=thread"], 2000, 2, 0, id="races"),
    ],
)
def test_every_task_is_done_once(
    flags: list[str], jobs: int, callers: int, forks: int, tmp_path: Path
) -> None:
    """Whatever the numbers of tasks and threads, sleepers and latecomers among them."""
    program = tmp_path / "threads"
    compiler = ["g++", "-std=c++17", "-pthread", "-g1", *flags, f"-I{SOURCES}"]
    subprocess.run(
        [*compiler, str(DRIVER), str(SOURCES / "thread_pool.cpp"), "-o", str(program)], check=True
    )
    arguments = [str(program), str(jobs), str(callers), str(forks)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
