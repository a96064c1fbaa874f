"""One row of the table: what was done, what happened, whether that is right; and how requests are
made and their ends collected."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[3] / "tests" / "support"))

import httpx
from gateways import EMBEDDER, GENERATOR
from serving import Serving

from atoll.launcher.stubs import find_stubs

PATIENCE_S = 180.0
RERANKER = "tiny-reranker"
EMBED: tuple[str, dict[str, Any]] = ("/embed", {"model": EMBEDDER, "inputs": "a reef"})
CHAT: tuple[str, dict[str, Any]] = (
    "/v1/chat/completions",
    {"model": GENERATOR, "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]},
)


class Case(NamedTuple):
    """row: of the table, such as F1. seconds: until the last of what is told had happened."""

    row: str
    done: str
    happened: str
    seconds: float
    is_right: bool


class Ended(NamedTuple):
    """A request. seconds: since ``Crowd`` was told of the fault."""

    kind: str
    end: str
    seconds: float


class Crowd:
    """Requests on a thread each, by kind; each returns how it has ended."""

    def __init__(self, calls: Iterable[tuple[str, Callable[[], str]]]) -> None:
        self.ends: list[Ended] = []
        self.began = time.monotonic()
        # Daemons: one without an answer must not hold the others.
        self._threads = [threading.Thread(target=self._ask, args=one, daemon=True) for one in calls]
        self.num = len(self._threads)
        for thread in self._threads:
            thread.start()

    def fault(self) -> None:
        """From now on seconds count."""
        self.began = time.monotonic()

    def _ask(self, kind: str, call: Callable[[], str]) -> None:
        try:
            end = call()
        except Exception as error:
            end = f"error: {error!r}"
        self.ends.append(Ended(kind, end, time.monotonic() - self.began))

    def wait(self, within_s: float = PATIENCE_S) -> float:
        """Until all have ended, or no longer than this; returns the seconds of the last end."""
        until = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return max((one.seconds for one in self.ends), default=within_s)

    def said(self, sort: Callable[[str], str]) -> str:
        """How many have ended in which way."""
        counts = Counter(sort(one.end) for one in self.ends)
        told = [f"{count} {way}" for way, count in counts.most_common()]
        missing = self.num - len(self.ends)
        return ", ".join([*told, *([f"{missing} never answered"] if missing else [])])


def process_of(server: Serving, model: str) -> int:
    """The process of a model that runs."""
    stubs = find_stubs(server.tritonserver.pid)
    return next(s.pid for s in stubs if s.model == model and s.is_running())


def post(server: Serving, path: str, body: Any, **more: Any) -> httpx.Response:
    """Asks the gateway."""
    return httpx.post(f"{server.url()}{path}", json=body, timeout=PATIENCE_S, **more)


def status_of(port: int, pieces: Sequence[bytes]) -> str:
    """The status of an answer to raw bytes; "none": the connection was closed without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        found = b""
        with contextlib.suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
        with contextlib.suppress(OSError):
            found = connection.recv(4096)
    return found.split(b" ", 2)[1].decode() if found.count(b" ") > 1 else "none"


def until_answered(
    server: Serving, requests: Sequence[tuple[str, Any]] = (EMBED, CHAT)
) -> tuple[float, Counter[str]]:
    """Asks until all are answered; returns the seconds, and the ends of what was asked before:
    statuses, with the seconds of Retry-After."""
    began, ends = time.monotonic(), Counter[str]()
    for path, body in requests:
        while time.monotonic() - began < PATIENCE_S:
            try:
                answer = post(server, path, body)
            except httpx.TransportError as error:
                ends[type(error).__name__] += 1
            else:
                if answer.status_code == 200:
                    break
                after = answer.headers.get("retry-after")
                ends[f"{answer.status_code} (Retry-After {after})"] += 1
            time.sleep(0.2)
        else:
            ends["never"] += 1
    return time.monotonic() - began, ends


def told(counts: Counter[str]) -> str:
    """``3 times 503, 1 time 429``."""
    return ", ".join(f"{count} × {end}" for end, count in counts.most_common()) or "none"
