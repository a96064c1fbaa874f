"""Loading leaves no OpenMP workers behind, which would keep the engine's from staying awake."""

import os
import subprocess
import sys

import pytest

from atoll.serving.triton.instance import in_temporary_thread

# In a process of its own: the tests' has pools already. A pool's threads go with their owner's.
_SCRIPT = """
import os, time, torch
from atoll.serving.triton.instance import in_temporary_thread

torch.set_num_threads(2)
tasks = lambda: len(os.listdir("/proc/self/task"))
product = lambda: torch.randn(512, 512, 64).sum().item()
before = tasks()
during = in_temporary_thread(lambda: (product(), tasks())[1])
for _ in range(100):
    if tasks() == before:
        break
    time.sleep(0.05)
print(before, during, tasks())
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
def test_workers_end_with_the_thread() -> None:
    script = [sys.executable, "-c", _SCRIPT]
    output = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    before, during, after = map(int, output.split())
    # The thread and one worker beside it.
    assert (during, after) == (before + 2, before)


def test_result_and_error_come_through() -> None:
    assert in_temporary_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        in_temporary_thread(divmod, 7, 0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, "None"),
    ],
)
def test_workers_spin_briefly_unless_told(given: dict[str, str], expected: str) -> None:
    unset = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    rest = {key: value for key, value in os.environ.items() if key not in unset}
    # Before torch is there, which reads it.
    asked = "os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules"
    command = [sys.executable, "-c", f"import atoll, os, sys; print({asked})"]
    found = subprocess.run(
        command, capture_output=True, text=True, check=True, env=rest | given
    ).stdout
    assert found.split() == [expected, "False"]
