"""A load of many different clients on a running ``atoll serve``, for as long as is wanted.

``python benchmarks/reliability/load.py --minutes 1`` shows what it does to a server on the default
ports. Each client asks one request after the other, drawn from ``kinds.py`` (the gateway's HTTP),
``native_requests.py`` (Triton's own ports) and ``batch_requests.py``; some clients disconnect,
before the first byte or in the middle of an answer, some read slowly. Each request has a deadline
and ends in one of the ways of ``tally.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import answers
import httpx
from answers import Answer
from batch_requests import batch
from kinds import Kind, Models, kinds
from native_requests import NATIVE, Native, NativeKind
from tally import ANSWERED, BROKEN, LEFT, REFUSED, TEMPORARY, UNANSWERED, WRONG, Ended, Tally

# How clients read: of a hundred.
_PATIENT, _LEAVES_AT_ONCE, _LEAVES, _SLOW = "patient", "leaves at once", "leaves", "slow"
_MANNERS = {_PATIENT: 78, _LEAVES_AT_ONCE: 7, _LEAVES: 10, _SLOW: 5}
_BATCH = "batch of files"


@dataclass(frozen=True)
class Target:
    """A server. http: the gateway. grpc: addresses that speak KServe: Triton's own and the
    gateway's. triton_http: Triton's own."""

    http: str = "http://127.0.0.1:8080"
    grpc: tuple[str, ...] = ("127.0.0.1:8001", "127.0.0.1:8081")
    triton_http: str = "http://127.0.0.1:8000"
    models: Models = field(default_factory=Models)


class Load:
    """``with``: clients ask in a thread of their own, until the end of the block.

    seed: what each client asks, and when it leaves, follows from it. pause_s: the mean of what a
    client waits between requests. batch_share: batches among requests. tally: the counts.
    """

    def __init__(
        self,
        target: Target,
        *,
        clients: int = 24,
        seed: int = 0,
        deadline_s: float = 60.0,
        pause_s: float = 0.3,
        batch_share: float = 0.003,
        on_end: Callable[[Ended], None] | None = None,
    ) -> None:
        self.tally = Tally(on_end)
        self._target, self._num_clients, self._seed = target, clients, seed
        self._deadline_s, self._pause_s, self._batch_share = deadline_s, pause_s, batch_share
        self._first: dict[str, Any] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        """Waits for the requests that have begun."""
        self._stopping.set()
        self._thread.join(timeout=self._deadline_s + 30)
        assert not self._thread.is_alive(), "a client does not end"

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._num_clients):
                group.create_task(self._client(Random(f"{self._seed}/{number}")))

    async def _client(self, random: Random) -> None:
        found: list[Kind | NativeKind] = [*kinds(self._target.models), *NATIVE]
        weights = [kind.weight for kind in found]
        while not self._stopping.is_set():
            # Connections are used again some times, and then closed.
            async with (
                httpx.AsyncClient(base_url=self._target.http, timeout=None) as client,
                Native(random.choice(self._target.grpc), self._target, self._deadline_s) as native,
            ):
                for _ in range(random.randint(1, 40)):
                    kind = random.choices(found, weights)[0]
                    if random.random() < self._batch_share:
                        await self._ended(_BATCH, self._batch(client, random))
                    elif isinstance(kind, Kind):
                        await self._ended(kind.name, self._ask(client, kind, random))
                    else:
                        await self._ended(kind.name, native.ask(kind, random, self._compare))
                    await asyncio.sleep(random.expovariate(1 / self._pause_s))
                    if self._stopping.is_set():
                        break

    async def _ended(self, name: str, request: Any) -> None:
        """Counts a request. request: gives outcome, status, detail and whether it was expected."""
        began = self.tally.begin()
        limit = asyncio.timeout(self._deadline_s)
        try:
            async with limit:
                ended = await request
        except TimeoutError:
            ended = (UNANSWERED, 0, f"{self._deadline_s} s", False)
        except (httpx.TransportError, OSError) as error:
            ended = (BROKEN, 0, repr(error), False)
        except Exception as error:  # an answer that cannot be read
            ended = (WRONG, 0, f"the client fails: {error!r}", False)
        outcome, status, detail, is_expected = ended
        self.tally.ended(name, outcome, began, status, detail, is_expected)

    async def _ask(
        self, client: httpx.AsyncClient, kind: Kind, random: Random
    ) -> tuple[str, int, str, bool]:
        body = kind.body(random)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        manner = random.choices([*_MANNERS], [*_MANNERS.values()])[0]
        most = {_LEAVES_AT_ONCE: 0.02, _LEAVES: 2.0}.get(manner)
        leaving = asyncio.timeout(random.uniform(0, most) if most else None)
        pause = random.uniform(0.01, 0.3) if manner == _SLOW else 0.0
        status = 0
        try:
            async with leaving:
                answer = await _read(client, kind.path, data, pause)
            status = answer.status
        except TimeoutError:
            if not leaving.expired():
                raise
            return LEFT, 0, "", True
        finally:
            self.tally.sent(kind.path, status)
        return self._judge(kind, data, answer)

    def _judge(self, kind: Kind, data: bytes, answer: Answer) -> tuple[str, int, str, bool]:
        said = answer.raw[:300].decode(errors="replace")
        if answer.status != 200:
            allowed = answer.status in TEMPORARY or kind.is_bad and answer.status < 500
            # An adapter that has just been unloaded is an unknown value until the gateway knows.
            allowed = allowed or kind.may_be_absent and answer.status in (400, 404)
            return REFUSED, answer.status, f"{data[:200]!r}: {said}", allowed
        if kind.is_bad:
            return WRONG, 200, f"{data[:200]!r} is answered: {said}", False
        found = answers.events(answer)
        if failed := answers.error(found):
            return REFUSED, 200, failed, True
        is_stream = "event-stream" in answer.content_type or "ndjson" in answer.content_type
        if is_stream and not answers.is_whole(found):
            return BROKEN, 200, answer.raw[-300:].decode(errors="replace"), False
        problem = self._compare(_key(kind, data), kind.say(found))
        return (WRONG, 200, problem, False) if problem else (ANSWERED, 200, "", True)

    def _compare(self, key: str, said: Any) -> str:
        """What differs from the first answer to the same request; "": nothing."""
        if said is None:
            return ""
        first = self._first.setdefault(key, said)
        return "" if answers.is_same(first, said) else f"{key}: {said!r:.300}, not {first!r:.300}"

    async def _batch(self, client: httpx.AsyncClient, random: Random) -> tuple[str, int, str, bool]:
        problem = await batch(client, self._target.models, random, self.tally.sent)
        return (WRONG, 200, problem, False) if problem else (ANSWERED, 200, "", True)


async def _read(client: httpx.AsyncClient, path: str, data: bytes, pause_s: float) -> Answer:
    """pause_s: after each piece."""
    headers = {"content-type": "application/json"}
    parts = []
    async with client.stream("POST", path, content=data, headers=headers) as response:
        async for part in response.aiter_bytes(1024 if pause_s else None):
            parts.append(part)
            await asyncio.sleep(pause_s)
    return Answer(response.status_code, response.headers.get("content-type", ""), b"".join(parts))


def _key(kind: Kind, data: bytes) -> str:
    """The same for what must be answered alike: streamed and not."""
    body = json.loads(data)
    body.pop("stream", None)
    return f"{kind.path} {json.dumps(body, sort_keys=True)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=8080, help="the gateway's")
    parser.add_argument("--grpc-port", type=int, default=8001, help="Triton's own")
    parser.add_argument("--http-port", type=int, default=8000, help="Triton's own")
    arguments = parser.parse_args()
    target = Target(
        f"http://127.0.0.1:{arguments.port}",
        (f"127.0.0.1:{arguments.grpc_port}",),
        f"http://127.0.0.1:{arguments.http_port}",
    )
    with Load(target, clients=arguments.clients, seed=arguments.seed) as load:
        time.sleep(60 * arguments.minutes)
    begun, by_end = load.tally.counts()
    for (kind, outcome), count in sorted(by_end.items()):
        print(f"{kind:32} {outcome:32} {count:6}  longest {load.tally.seconds[kind]:.1f} s")
    totals = Counter[str]()
    for (_, outcome), count in by_end.items():
        totals[outcome] += count
    print(f"{begun} begun, {totals.total()} ended: {dict(totals)}")
    for defect in load.tally.defects[:10]:
        print("defect:", defect)


if __name__ == "__main__":
    main()
