"""What must be the same after a hundred requests as before them: processes, logs, held things."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from fuzzing import target
from fuzzing.target import Target

_LOST = re.compile(r"Traceback \(most recent|Segmentation|Signal \(|terminate called|dumped core")
_GAUGES = re.compile(
    r"^(atoll_gateway_server_requests|atoll_requests_running|atoll_requests_waiting"
    r"|atoll_kv_usage|atoll_gateway_batch_lines_running)(\{[^}]*\})? (\S+)$",
    re.MULTILINE,
)
_IDLE_S = 90.0
_KEYED = {"authorization": f"Bearer {target.KEY}"}
_MESSAGES = [{"role": "user", "content": "The capital of France is"}]
_PROBES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/embeddings", {"model": target.EMBEDDER, "input": "a probe"}),
    ("/v1/chat/completions", {"model": target.GENERATOR, "messages": _MESSAGES, "max_tokens": 6,
                              "temperature": 0}),
    ("/v1/rerank", {"model": target.RERANKER, "query": "a", "documents": ["b", "c"]}),
    ("/predict", {"model": target.CLASSIFIER, "inputs": "a probe"}),
)  # fmt: skip


class Watch:
    """Compares with how it was when it was made."""

    def __init__(self, served: Target) -> None:
        self._served = served
        self._logs = {path: 0 for path in (served.log, served.server.log)}
        self._answers = self._asked()
        self.renew()

    def renew(self) -> None:
        """From now on, what runs now is right."""
        self._processes = self._running()
        self._num_shared = self._shared()
        for path in self._logs:
            self._logs[path] = path.stat().st_size

    def problems(self) -> list[str]:
        """What is different; waits for requests to end."""
        found = [f"a process has ended: {one}" for one in self._processes - self._running()]
        found += self._lost_lines()
        try:
            found += self._held()
            answers = self._asked()
            found += [
                f"a probe of {path} is answered {answer[:300]} in place of {self._answers[path]}"
                for path, answer in answers.items() if answer != self._answers[path]
            ]  # fmt: skip
        except httpx.HTTPError as error:
            found.append(f"the gateway does not answer: {error!r}")
        if self._shared() > self._num_shared:
            found.append(f"{self._shared()} files in /dev/shm; before: {self._num_shared}")
        return found

    def wait_ready(self, limit_s: float = 120.0) -> float:
        """Until probes are answered right again; returns after how many seconds."""
        began = time.monotonic()
        while time.monotonic() - began < limit_s:
            try:
                if self._asked() == self._answers:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(1)
        return time.monotonic() - began

    def descriptors(self) -> dict[str, int]:
        """Open files by process."""
        own = psutil.Process(self._served.server.process.pid)
        return {
            f"{one.name()} {one.pid}": one.num_fds() for one in [own, *own.children(recursive=True)]
        }

    def _running(self) -> set[tuple[int, float, str]]:
        own = psutil.Process(self._served.server.process.pid)
        found = set()
        for one in [own, *own.children(recursive=True)]:
            command = " ".join(one.cmdline())
            if target.VICTIM not in command and one.status() != psutil.STATUS_ZOMBIE:
                found.add((one.pid, one.create_time(), command[:160]))
        return found

    def _shared(self) -> int:
        return len([*Path("/dev/shm").glob(f"{self._served.identity}*")])

    def _lost_lines(self) -> list[str]:
        found = []
        for path, seen in self._logs.items():
            with path.open("rb") as file:
                file.seek(seen)
                text = file.read().decode(errors="replace")
            self._logs[path] = seen + len(text.encode())
            if hit := _LOST.search(text):
                found.append(f"{path.name}: {text[max(0, hit.start() - 300) : hit.start() + 2500]}")
        return found

    def _held(self) -> list[str]:
        """Requests, KV blocks and lines of batches that are held though nobody asks."""
        until = time.monotonic() + _IDLE_S
        while True:
            text = httpx.get(f"{self._served.server.url()}/metrics", timeout=60).text
            held = [f"{m[0]}{m[1]} is {m[2]}" for m in _GAUGES.findall(text) if float(m[2]) != 0]
            if not held or time.monotonic() > until:
                return held
            time.sleep(0.3)

    def _asked(self) -> dict[str, str]:
        found = {}
        for path, body in _PROBES:
            url = f"{self._served.server.url()}{path}"
            answer = httpx.post(url, json=body, headers=_KEYED, timeout=120)
            found[path] = f"{answer.status_code} {_said(answer)}"
        return found


def _said(answer: httpx.Response) -> str:
    """What must be the same each time: texts, and numbers but for their last digits."""
    found = json.loads(answer.text, parse_float=lambda x: round(float(x), 3))
    if isinstance(found, dict):
        found = {k: v for k, v in found.items() if k in ("choices", "data", "results", "error")}
    text = json.dumps(found)
    return text if len(text) < 900 else f"{text[:600]}{hash(text)}"
