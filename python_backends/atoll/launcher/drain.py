"""Ends a server's work before the server: what can end in time does, the rest is told so.

Triton itself would wait for open connections first, even idle ones, and then end with models still
loaded and their requests unanswered.
"""

from __future__ import annotations

import contextlib
import re
import time
import urllib.request
from collections.abc import Callable, Sequence

from atoll.catalogue import ServedModel
from atoll.errors import NotReady
from atoll.launcher.canary import Probe
from atoll.launcher.stubs import Stub

_LOOK_S = 0.1
_UNLOAD_S = 5.0
_HELD = re.compile(r"^atoll_requests_(?:running|waiting)\{.*\} (\S+)$", re.MULTILINE)


def drain(
    probe: Probe,
    models: Sequence[ServedModel],
    stubs: Sequence[Stub],
    metrics_url: str,
    grace_s: float,
    is_up: Callable[[], bool],
) -> None:
    """Waits until no request runs, ``grace_s`` at most, then has every model unloaded.

    A model that is unloaded answers what it still holds with an error. Returns early where the
    server is gone or says nothing.
    """
    deadline = time.monotonic() + grace_s
    while is_up() and _num_held(metrics_url) > 0 and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    for model in models:
        # One that is not loaded, or a server that hangs: the process is ended anyway.
        with contextlib.suppress(NotReady):
            probe.unload(model.name, _UNLOAD_S)
    deadline = time.monotonic() + _UNLOAD_S
    while is_up() and any(s.is_running() for s in stubs) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)


def _num_held(metrics_url: str) -> float:
    """Requests of all generators; 0 where the server does not say."""
    try:
        with urllib.request.urlopen(metrics_url, timeout=2) as page:
            text = page.read().decode()
    except OSError:
        return 0
    return sum(map(float, _HELD.findall(text)))
