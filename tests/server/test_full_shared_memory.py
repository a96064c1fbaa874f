"""Shared memory that is full, through a real server: everyone is answered, and it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_MEMORY_RUN = Path(__file__).parents[1] / "support" / "full_shared_memory.py"


def test_shared_memory_that_is_full_leaves_nobody_waiting() -> None:
    """A response that found no room was lost, and its client waited for ever.

    So did who asked a conversation: between models, Triton lost the error. And memory may be used
    up while requests run. The run has /dev/shm to itself: 32 MB in a mount namespace of its own.
    """
    may = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/dev/shm"],
        capture_output=True,
        text=True,
        check=False,
    )
    if may.returncode:
        pytest.skip(f"no right to mount a file system of its own: {may.stderr.strip()}")
    run = subprocess.run(
        ["unshare", "--mount", sys.executable, str(SHARED_MEMORY_RUN)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    print(run.stdout[-4000:], run.stderr[-6000:])
    assert run.returncode == 0
    found = json.loads(run.stdout.strip().splitlines()[-1])
    assert found["never_answered"] == []
    assert set(found["begun"]) == {"answered"}
    # Large answers are refused while there is no room for them, small ones are not.
    assert {end for ends in found["small"].values() for end in ends} == {"answered"}
    assert {end for ends in found["large"].values() for end in ends} == {"error"}
    assert all("shared memory" in error for error in found["errors"]), found["errors"]
    for ends in found["afterwards"]:
        assert all(set(of_kind) == {"answered"} for of_kind in ends.values()), ends
    assert found["is_ready"] and found["is_alive"]
    assert found["listening"] == 0
