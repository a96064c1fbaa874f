"""The end of the launcher, which alone ends the service: by SIGTERM, and by SIGKILL."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time

import psutil
from chaos_served import SHM, World, is_apart
from serving import Serving

# The grace of five seconds, that of the gateway and what Triton adds.
_END_S, _GONE_S = 40.0, 30.0


def end_kindly(world: World, server: Serving) -> list[str]:
    """Sends SIGTERM; what is wrong afterwards."""
    family = _family(server)
    server.process.send_signal(signal.SIGTERM)
    try:
        code = server.process.wait(timeout=_END_S)
    except subprocess.TimeoutExpired:
        server.process.kill()
        return [f"SIGTERM: the launcher has not ended in {_END_S:.0f} s"]
    wrong = [f"SIGTERM: the launcher ends with status {code}"] if code else []
    return wrong + [f"SIGTERM: {one}" for one in _left(world, family)]


def end_launcher(world: World) -> list[str]:
    """Kills the launcher of a second server, and starts a third one; what is wrong then."""
    second = world.start()
    family = _family(second)
    second.process.kill()
    second.process.wait()
    wrong = [f"SIGKILL of the launcher: {one}" for one in _left(world, family)]
    try:
        third = world.start()
    except RuntimeError as error:
        return [*wrong, f"SIGKILL of the launcher: the next start: {str(error)[-1000:]}"]
    return wrong + end_kindly(world, third)


def _family(server: Serving) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def _left(world: World, family: list[psutil.Process]) -> list[str]:
    """Processes, shared memory and folders that are still there after a while."""
    _, alive = psutil.wait_procs(family, timeout=_GONE_S)
    found = []
    for process in alive:
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"process {process.pid} ({process.name()}) still runs")
    deadline = time.monotonic() + _GONE_S
    while (files := _files(world)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found + [f"{name} is left" for name in files]


def _files(world: World) -> list[str]:
    # Elsewhere, files of others lie beside.
    own = [*SHM.iterdir()] if is_apart() else []
    return [str(one) for one in (*own, *(world.folder / "scratch").glob("atoll-*"))]
