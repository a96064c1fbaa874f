"""Long batches while everything else fails: each line has to be answered, and once."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
from chaos_served import MODELS
from kinds import messages

_ENDED = ("completed", "failed", "expired", "cancelled")
_RETRY_S, _LOOK_S = 1.0, 2.0


@dataclass
class Counts:
    """Of all batches. wrong: what was lost, answered twice or ended badly, in words.

    statuses: of lines that were answered with an error.
    """

    num_batches: int = 0
    num_lines: int = 0
    num_answered: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Batches:
    """``with``: two threads send a batch each, wait for its end, compare, and send the next.

    At the end of the block the last ones have ``patience_s``.
    """

    def __init__(self, url: str, num_lines: int, patience_s: float = 300.0) -> None:
        self.counts = Counts()
        self._num_lines, self._patience_s = num_lines, patience_s
        self._client = httpx.Client(base_url=url, timeout=60.0)
        self._stopping, self._numbers = threading.Event(), itertools.count()
        self._deadline = float("inf")
        self._threads = [
            threading.Thread(target=self._run, args=(kind,), daemon=True)
            for kind in ("/v1/embeddings", "/v1/chat/completions")
        ]

    def __enter__(self) -> Batches:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._deadline = time.monotonic() + self._patience_s
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=self._patience_s + 60)
        if any(thread.is_alive() for thread in self._threads):
            self.counts.wrong.append("a batch has not ended")

    def _run(self, path: str) -> None:
        while not self._stopping.is_set():
            number = next(self._numbers)
            try:
                self._one(path, number)
            except TimeoutError as error:
                self.counts.wrong.append(f"batch {number}: {error}")

    def _one(self, path: str, number: int) -> None:
        # Chats take longer.
        count = self._num_lines if path == "/v1/embeddings" else self._num_lines // 4
        ids = [f"{number}/{at}" for at in range(count)]
        text = "\n".join(json.dumps(_line(path, name)) for name in ids).encode()
        file = self._insist("POST", "/v1/files", data={"purpose": "batch"},
                            files={"file": ("lines.jsonl", text)}).json()["id"]  # fmt: skip
        found = self._create({"input_file_id": file, "endpoint": path, "completion_window": "24h",
                              "metadata": {"number": str(number)}})  # fmt: skip
        while found["status"] not in _ENDED:
            time.sleep(_LOOK_S)
            found = self._insist("GET", f"/v1/batches/{found['id']}").json()
        rows = []
        names = [found.get("output_file_id"), found.get("error_file_id")]
        for name in filter(None, names):
            content = self._insist("GET", f"/v1/files/{name}/content").text
            rows += [json.loads(row) for row in content.splitlines()]
        self._compare(number, found, ids, rows)
        for name in filter(None, [file, *names]):
            self._insist("DELETE", f"/v1/files/{name}", also=404)

    def _create(self, body: dict[str, Any]) -> Any:
        """Looks first whether the try before, whose answer was lost, has made it."""
        while True:
            made = self._insist("GET", "/v1/batches?limit=100").json()["data"]
            for batch in made:
                if batch["metadata"] == body["metadata"]:
                    return batch
            try:
                response = self._client.post("/v1/batches", json=body)
            except httpx.TransportError:
                continue
            if response.status_code == 200:
                return response.json()
            self._wait(response)

    def _insist(self, method: str, path: str, also: int = 200, **options: Any) -> httpx.Response:
        """The answer 200, or ``also``, after as many tries as it takes.

        Raises:
            TimeoutError: not in time. RuntimeError: it is refused for good.
        """
        while True:
            try:
                response = self._client.request(method, path, **options)
            except httpx.TransportError:
                self._wait(None)
                continue
            if response.status_code in (200, also):
                return response
            self._wait(response)

    def _wait(self, response: httpx.Response | None) -> None:
        said = "no connection" if response is None else f"{response.status_code} {response.text}"
        if response is not None and response.status_code not in (429, 502, 503, 504, 507):
            self.counts.wrong.append(f"a request about a batch: {said[:300]}")
        if time.monotonic() > self._deadline:
            raise TimeoutError(f"not ended in {self._patience_s:.0f} s: {said[:300]}")
        time.sleep(_RETRY_S)

    def _compare(self, number: int, found: Any, ids: list[str], rows: list[Any]) -> None:
        counts, answered = self.counts, Counter(row["custom_id"] for row in rows)
        counts.num_batches += 1
        counts.num_lines += len(ids)
        counts.num_answered += sum(_status(row) == "200" for row in rows)
        counts.statuses += Counter(s for s in map(_status, rows) if s != "200")
        lost = [name for name in ids if name not in answered]
        twice = [name for name, times in answered.items() if times > 1]
        strange = [name for name in answered if name not in set(ids)]
        if found["status"] != "completed":
            counts.wrong.append(f"batch {number} is {found['status']}: {found.get('errors')}")
        for what, names in (("lost", lost), ("answered twice", twice), ("of no batch", strange)):
            if names:
                counts.wrong.append(f"batch {number}: {len(names)} lines {what}: {names[:3]}")


def _line(path: str, name: str) -> dict[str, Any]:
    body: dict[str, Any] = {"model": MODELS.embedder, "input": f"lagoon {name}"}
    if path != "/v1/embeddings":
        body = {"model": MODELS.generator, "messages": messages(f"Say {name}."),
                "max_tokens": 2, "temperature": 0}  # fmt: skip
    return {"custom_id": name, "method": "POST", "url": path, "body": body}


def _status(row: Any) -> str:
    response = row.get("response")
    return str(response["status_code"]) if response else str(row["error"]["code"])
