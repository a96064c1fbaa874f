"""What can go wrong: processes that are killed, asked to end or stopped for a while, connections
that are cut, shared memory and the disk of batches that are full for some seconds."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

import httpx
import psutil
from chaos_served import MODELS, SHARDED, SHM, World, is_apart, processes
from serving import Serving

_KILL, _TERM, _STOP = "SIGKILL", "SIGTERM", "SIGSTOP"
CUT, FILL = "connections cut", "full"
CLIENTS, TRITON = "clients to the gateway", "the gateway to Triton"
_SHARED, _DISK = "/dev/shm", "the disk of batches"
_MODELS = (MODELS.embedder, MODELS.generator, SHARDED)
_GRAMMAR = "grammar"
_FOLLOWER = f"rank 1 of {SHARDED}"
# How long a process stays stopped, and something full.
_STOPPED_S, _FULL_S = (1.0, 20.0), (2.0, 10.0)
_FOUND_S = 10.0
_GRAMMAR_S = 20.0


class Fault(NamedTuple):
    """target: a process or what else it is done to. seconds: how long it lasts; 0: a moment."""

    what: str
    target: str
    seconds: float = 0.0


def faults(random: Random) -> Iterator[Fault]:
    """Without end; each kind once, in an order that is drawn, then all again."""
    every = [(what, name) for what in (_KILL, _TERM, _STOP)
             for name in (*_MODELS, _FOLLOWER, "tritonserver", "gateway")]  # fmt: skip
    every += [(_STOP, "launcher"), (_KILL, _GRAMMAR), (CUT, CLIENTS), (CUT, TRITON)]
    every += [(FILL, _SHARED), (FILL, _DISK)]
    while True:
        random.shuffle(every)
        for what, target in every:
            lasts = {_STOP: _STOPPED_S, FILL: _FULL_S}.get(what)
            yield Fault(what, target, round(random.uniform(*lasts), 1) if lasts else 0.0)


def why_not(fault: Fault) -> str:
    """Why it cannot be done on this machine; "": it can."""
    if fault.what == FILL and not is_apart():
        return "file systems of one's own need the right to mount"
    if fault.what == CUT and (shutil.which("ss") is None or os.geteuid() != 0):
        return "cutting connections needs ss and root"
    return ""


def inflict(fault: Fault, world: World, server: Serving) -> str:
    """Returns when it is over; why it was not done, or ""."""
    if reason := why_not(fault):
        return reason
    if fault.what == CUT:
        name = "port" if fault.target == CLIENTS else "grpc-port"
        end = "sport" if fault.target == CLIENTS else "dport"
        subprocess.run(["ss", "-K", end, "=", str(server.ports[name])], capture_output=True)
        return ""
    if fault.what == FILL:
        with _filled(SHM if fault.target == _SHARED else world.batches):
            time.sleep(fault.seconds)
        return ""
    if fault.target == _GRAMMAR:
        threading.Thread(target=_ask_for_grammar, args=(world.target.http,), daemon=True).start()
    process = _find(server, fault.target)
    if process is None:
        return "there was no such process"
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.Signals[fault.what])
        if fault.what == _STOP:
            time.sleep(fault.seconds)
            process.send_signal(signal.SIGCONT)
    return ""


def _find(server: Serving, name: str) -> psutil.Process | None:
    deadline = time.monotonic() + _FOUND_S
    while (found := processes(server).get(name)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def _ask_for_grammar(url: str) -> None:
    """A request whose grammar is tried in a process of its own first."""
    strings = {f"p{at}": {"type": "string", "pattern": r"\S", "maxLength": 20 + at}
               for at in range(40)}  # fmt: skip
    schema = {"type": "object", "properties": strings, "required": [*strings]}
    body = {"model": MODELS.generator, "prompt": "x", "max_tokens": 1, "guided_json": schema}
    with contextlib.suppress(httpx.TransportError):
        httpx.post(f"{url}/v1/completions", json=body, timeout=_GRAMMAR_S)


@contextlib.contextmanager
def _filled(folder: Path) -> Iterator[None]:
    path = folder / "filler"
    try:
        with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
            # In small pieces, so that nothing at all is left.
            while file.write(bytes(4096)) == 4096:
                pass
        yield
    finally:
        path.unlink(missing_ok=True)
