"""Phases of a start: which are open, how long each took, and what is said of one that goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from atoll import progress
from atoll.launcher import startup
from atoll.launcher.startup import Phase, Startup

LOADING = 'I1130 22:19:07.130491 27639 model_lifecycle.cc:472] "loading: a model:2"'
CODE = """
import logging
from atoll import progress
progress.introduce("a model", "2")
with progress.phase("weights"):
    build = logging.getLogger("atoll_kernels.cpu.native.build")
    build.info("compiling", extra={"phase": ("kernels", "begin")})
    build.info("compiled", extra={"phase": ("kernels", "end")})
"""


def test_a_model_s_process_tells_its_phases() -> None:
    """Only if it is asked to: another server's log has no such lines."""
    told: list[str] = []
    found = Startup(lambda text, facts: told.append(text))
    found.start()
    try:
        assert not found.read(LOADING)
        environment = {**os.environ, progress.WANTED: "1"}
        run = [sys.executable, "-c", CODE]
        done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
        assert [found.read(line) for line in done.stderr.splitlines()] == [True] * 5
        assert found.current() == []
        names = [(phase.name, phase.model, phase.version) for phase in found.seconds()]
        assert names == [(n, "a model", "2") for n in ("process", "kernels", "weights")]
        assert told == [f"a model, version 2: {n}" for n in ("process", "weights", "kernels")]
    finally:
        found.stop()
    silent = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert silent.stderr == ""


def test_a_phase_that_goes_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What, of which model, since when; until its process has ended, or the load has failed."""
    for name in ("_SLOW_S", "_AGAIN_S"):
        monkeypatch.setattr(startup, name, 0.0)
    monkeypatch.setattr(startup, "_LOOK_S", 0.01)
    told: list[tuple[str, dict[str, Any]]] = []
    found = Startup(lambda text, facts: told.append((text, facts)))
    found.start()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found.read(LOADING.replace("a model", "other"))
        _mark(found, child.pid, model="slow", version="1")
        _mark(found, child.pid, phase="weights", state="begin")
        for phase in (Phase("weights", "slow", "1"), Phase("process", "other", "2")):
            slow = _wait(lambda phase=phase: [x for x in told if _is_late(x, phase)])
            assert slow[0][0].startswith(f"{phase} goes on since ") and ":" in slow[0][0]
        found.failed("other")
        child.communicate()
        assert _wait(lambda: found.current() == [])
    finally:
        child.kill()
        child.wait()
        found.stop()


def _mark(found: Startup, pid: int, **facts: Any) -> None:
    assert found.read(progress.MARK + json.dumps({"pid": pid, **facts}))


def _is_late(told: tuple[str, dict[str, Any]], phase: Phase) -> bool:
    return "seconds" in told[1] and phase.facts().items() <= told[1].items()


def _wait(done: Any) -> Any:
    deadline = time.monotonic() + 60
    while not (found := done()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found
