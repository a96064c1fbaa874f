"""Followers whose rank 0 is killed: they end, and remove its files."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from long_requests import wait_until

# Rank 0, as far as a follower sees it; it kills itself.
LEADER = """
import os, signal, sys
from pathlib import Path
from atoll.runner.ranks.connection import accepted, listen
from atoll.runner.ranks.messages import Alive, Failed, Measure
from atoll.runner.ranks.processes import LocalFollower

scratch, is_connected = Path(sys.argv[1]), sys.argv[2] == "True"
listening = listen(str(scratch / "leader"))
follower = LocalFollower(1, str(scratch / "leader"), "key", scratch, 1)
print(follower.pid, flush=True)
if is_connected:
    peer = accepted(listening.accept()[0], b"key")
    peer.receive()
    peer.send(Measure())  # which it cannot do yet
    while isinstance(message := peer.receive(), Alive):
        pass
    assert isinstance(message, Failed)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("is_connected", [False, True])
def test_a_killed_rank_0_leaves_no_files(tmp_path: Path, is_connected: bool) -> None:
    """They stayed if it was killed while the follower started, or if the follower also failed, as
    it does in the middle of a step."""
    scratch = tmp_path / "atoll-ranks-test"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LEADER, str(scratch), str(is_connected)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    wait_until(lambda: has_ended(pid), lambda: "the follower runs")
    assert not scratch.exists()


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
