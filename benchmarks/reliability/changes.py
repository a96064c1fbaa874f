"""What an administrator does to a server while it is under load, one thing after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
from served import ADAPTER, PASSING, SLEEPER, Served
from tally import ANSWERED, BROKEN, UNANSWERED, WRONG, Tally

_DEADLINE_S = 120.0
_IDLE_UNLOAD_S = "15"
_ASK_SLEEPER = "request for a model that sleeps"


class Change(NamedTuple):
    """name: for people. operation: of the admin socket, or "": the sleeping model is asked."""

    name: str
    operation: str = ""
    body: dict[str, Any] = {}


class Changes:
    """``with``: a thread works on the list again and again, with a pause after each.

    tally: how they ended. when: seconds on ``time.monotonic`` and the names of changes.
    """

    def __init__(self, served: Served, pause_s: float, tally: Tally) -> None:
        self.when: list[tuple[float, str]] = []
        self._served, self._pause_s, self.tally = served, pause_s, tally
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        folder, generator = served.folder, served.target.models.generator
        adapter = {"model": generator, "lora_name": ADAPTER}
        self._list = (
            Change("load of a model", "models/load",
                   {"model": str(folder / PASSING), "name": PASSING}),
            Change("load of an adapter", "adapters/load",
                   {**adapter, "lora_path": str(folder / ADAPTER)}),
            Change(_ASK_SLEEPER),
            Change("reload of a model", "models/reload", {"model": PASSING}),
            Change("unload of an adapter", "adapters/unload", adapter),
            Change("unload of a model", "models/unload", {"model": PASSING}),
        )  # fmt: skip

    def __enter__(self) -> Changes:
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        """Ends after the last change of the list, so that what was loaded is unloaded."""
        self._stopping.set()
        self._thread.join(timeout=len(self._list) * _DEADLINE_S)
        assert not self._thread.is_alive(), "a change does not end"

    def load_sleeper(self) -> None:
        """The model that is unloaded when nobody asks it."""
        body = {"model": str(self._served.folder / SLEEPER), "name": SLEEPER,
                "settings": {"idle_unload_s": _IDLE_UNLOAD_S}}  # fmt: skip
        list(self._served.admin.events("models/load", body))

    def _run(self) -> None:
        while not self._stopping.is_set():
            for change in self._list:
                self._one(change)
                self._stopping.wait(self._pause_s)

    def _one(self, change: Change) -> None:
        self.when.append((time.monotonic(), change.name))
        if change.operation:
            self._counted(change.name, lambda: self._ask_server(change))
        else:
            self._counted(change.name, self._ask_sleeper)

    def _counted(self, name: str, do: Callable[[], str]) -> None:
        began, outcome = self.tally.begin(), ANSWERED
        try:
            problem = do()
            outcome = WRONG if problem else ANSWERED
        except httpx.TimeoutException as error:
            outcome, problem = UNANSWERED, repr(error)
        except httpx.TransportError as error:
            outcome, problem = BROKEN, repr(error)
        except Exception as error:  # a server that says why it did not do it
            outcome, problem = WRONG, repr(error)
        self.tally.ended(name, outcome, began, detail=problem)

    def _ask_server(self, change: Change) -> str:
        *_, last = self._served.admin.events(change.operation, change.body)
        return "" if "models" in last else f"ended with {last}"

    def _ask_sleeper(self) -> str:
        # Twice: once to wake it, once while it is awake.
        found = []
        for _ in range(2):
            response = httpx.post(
                f"{self._served.target.http}/v1/embeddings",
                json={"model": SLEEPER, "input": "good morning"},
                timeout=_DEADLINE_S,
            )
            self.tally.sent("/v1/embeddings", response.status_code)
            if response.status_code != 200:
                return f"{response.status_code} {response.text[:200]}"
            found.append(response.json()["data"][0]["embedding"])
        return "" if found[0] == found[1] else "two embeddings of one text differ"
