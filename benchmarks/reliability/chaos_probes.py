"""A request of each model and dialect, again and again, which shows from when to when there was
no answer."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import httpx
from chaos_served import MODELS, SHARDED
from kinds import messages
from load import Target

_PERIOD_S, TIMEOUT_S = 0.5, 40.0
_NUM_CALM, _CALM_S = 5, 90.0
_E, _G = MODELS.embedder, MODELS.generator
_CHAT = {"model": _G, "messages": messages("Say hello."), "max_tokens": 4, "temperature": 0}
_TENSOR = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["lagoon"]}
PROBES: dict[str, tuple[str, dict[str, Any]]] = {
    f"{_E}: OpenAI": ("/v1/embeddings", {"model": _E, "input": "lagoon"}),
    f"{_E}: TEI": ("/embed", {"model": _E, "inputs": "lagoon"}),
    f"{_E}: KServe": (f"/v2/models/{_E}/infer", {"inputs": [_TENSOR]}),
    f"{_G}: OpenAI": ("/v1/chat/completions", _CHAT),
    f"{_G}: Anthropic": ("/v1/messages", _CHAT),
    f"{_G}: Ollama": ("/api/chat", {"model": _G, "messages": _CHAT["messages"],
                                    "options": {"num_predict": 4}, "stream": False}),
    f"{_G}: TGI": ("/generate", {"model": _G, "inputs": "Hello",
                                 "parameters": {"max_new_tokens": 4}}),
    f"{SHARDED}: OpenAI": ("/v1/completions", {"model": SHARDED, "prompt": "lagoon",
                                               "max_tokens": 4, "temperature": 0}),
}  # fmt: skip


class Probed(NamedTuple):
    """One request. status: HTTP's; 0: the connection broke, -1: no answer in time."""

    began: float
    ended: float
    status: int

    @property
    def is_answered(self) -> bool:
        """Whether it was answered, and not refused."""
        return self.status == 200


class Probes:
    """``with``: they ask in a thread, each on a connection of its own that is used once."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._found: dict[str, list[Probed]] = {name: [] for name in PROBES}
        self._calm: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Probes:
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._stopping.set()
        self._thread.join(timeout=TIMEOUT_S + 10)

    def know_calm(self) -> dict[str, float]:
        """Takes what is measured before anything is broken as what is usual: medians of seconds.

        Raises:
            RuntimeError: not every probe is answered.
        """
        deadline = time.monotonic() + _CALM_S
        while any(sum(one.is_answered for one in x) < _NUM_CALM for x in self._found.values()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"probes without an answer: {self._found}")
            time.sleep(0.5)
        self._calm = {
            name: statistics.median(one.ended - one.began for one in found)
            for name, found in self._found.items()
        }
        return self._calm

    def is_calm(self, since: float) -> bool:
        """Whether the last two answers of every probe to what was asked since were as usual."""
        for name, found in self._found.items():
            last = [one for one in found if one.began >= since][-2:]
            if len(last) < 2 or any(self._is_disturbed(name, one) for one in last):
                return False
        return True

    def recovery_s(self, began: float) -> dict[str, float]:
        """By probe: seconds from then to the first answer after the last that was disturbed; 0:
        none was."""
        return {name: self._recovery(name, began) for name in self._found}

    def refusals(self, began: float) -> dict[str, list[int]]:
        """Which statuses came instead of answers since then."""
        return {
            name: sorted({one.status for one in found if one.ended > began} - {200})
            for name, found in self._found.items()
        }

    def _recovery(self, name: str, began: float) -> float:
        found = [one for one in self._found[name] if one.ended > began]
        disturbed = [at for at, one in enumerate(found) if self._is_disturbed(name, one)]
        if not disturbed:
            return 0.0
        answered: Iterable[Probed] = (one for one in found[disturbed[-1] :] if one.is_answered)
        return next((one.ended - began for one in answered), float("inf"))

    def _is_disturbed(self, name: str, one: Probed) -> bool:
        most = 4 * self._calm.get(name, 1.0) + 2.0
        return not one.is_answered or one.ended - one.began > most

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name, (path, body) in PROBES.items():
                group.create_task(self._ask(self._found[name], path, body))

    async def _ask(self, found: list[Probed], path: str, body: dict[str, Any]) -> None:
        while not self._stopping.is_set():
            began, status = time.monotonic(), 0
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    async with httpx.AsyncClient(base_url=self._target.http, timeout=None) as one:
                        status = (await one.post(path, json=body)).status_code
            except TimeoutError:
                status = -1
            except httpx.TransportError:
                status = 0
            found.append(Probed(began, time.monotonic(), status))
            await asyncio.sleep(_PERIOD_S)
