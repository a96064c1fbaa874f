"""Drains a server before it stops: requests that can finish in time do, the rest get an error.

Triton itself would first wait for open connections, even idle ones, and then end with models still
loaded and their requests unanswered.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from atoll.catalogue import ServedModel
from atoll.errors import NotReady
from atoll.launcher.canary import Probe
from atoll.launcher.stubs import Stub
from atoll.serving.triton.shutdown import SIGNAL

_LOOK_S = 0.1
_ASK_S = 5.0
# Time from the signal until a process has answered its requests.
_ANSWER_S = 5.0


def drain(
    probe: Probe,
    models: Sequence[ServedModel],
    stubs: Sequence[Stub],
    grace_s: float,
    is_up: Callable[[], bool],
) -> None:
    """Unloads every model, which Triton does once none of its requests is running; after
    ``grace_s``, models end their requests with an error. Returns early if the server is gone."""
    for model in models:
        # The model is not loaded, or the server hangs: the process is ended anyway.
        with contextlib.suppress(NotReady):
            probe.unload(model.name, _ASK_S)
    if not _have_ended(stubs, grace_s, is_up):
        for stub in stubs:
            stub.send(SIGNAL)
        _have_ended(stubs, _ANSWER_S, is_up)


def _have_ended(stubs: Sequence[Stub], within_s: float, is_up: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + within_s
    while is_up() and any(stub.is_running() for stub in stubs):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_S)
    return True
