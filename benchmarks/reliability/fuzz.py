"""More than 10,000 requests that make no sense, over every protocol of a running server.

``python benchmarks/reliability/fuzz.py`` starts ``atoll serve``, sends them in hundreds, each with
a deadline, and looks after each hundred whether everything is as it was. What is not is printed
with the command that sends the same hundred again.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
from fuzzing import gateway, grpc_messages, raw, tensors
from fuzzing.prepared import prepared
from fuzzing.report import write
from fuzzing.send import DEADLINE_S, Sender
from fuzzing.shot import Outcome, Shot, shown
from fuzzing.target import Target, fuzzed
from fuzzing.watch import Watch

BATCH = 100
_AT_ONCE = 8
# What it is, how many hundreds, and the requests. Triton's own ports come last: what ends
# tritonserver there is no fault of the gateway.
KINDS: dict[str, tuple[int, Any]] = {
    "the gateway's HTTP": (42, gateway.routes(is_admin=False)),
    "the gateway's HTTP, for administrators": (5, gateway.routes(is_admin=True)),
    "the admin socket and port": (5, gateway.admin_socket()),
    "the gateway's KServe over HTTP": (16, tensors.kserve_http("port")),
    "the gateway's KServe over gRPC": (13, grpc_messages.kserve_grpc("gateway-grpc-port")),
    "the gateway's other gRPC": (12, grpc_messages.other_grpc()),
    "bytes": (10, raw.raw(("port", "port", "gateway-grpc-port", "admin-port", "metrics-port"))),
    "Triton's own HTTP": (4, tensors.kserve_http("http-port")),
    "Triton's own gRPC": (4, grpc_messages.kserve_grpc("grpc-port")),
    "bytes to Triton's own ports": (2, raw.raw(("http-port", "grpc-port"))),
}


def made(strategy: Any, seed: int, count: int = BATCH) -> list[Shot]:
    """The requests of a seed: always the same."""
    found: list[Shot] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, database=None, deadline=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck), verbosity=hypothesis.Verbosity.quiet,
    )  # fmt: skip
    @hypothesis.given(strategy)
    def collect(shot: Shot) -> None:
        found.append(shot)

    collect()
    return found


class Run:
    """Of all kinds, or some; counts the ends, and keeps what is wrong."""

    def __init__(self, target: Target, seed: int) -> None:
        self.ends: dict[str, Counter[str]] = {}
        self.slowest: Counter[str] = Counter()
        self.defects: list[dict[str, str]] = []
        self._target, self._seed = target, seed
        self._watch = Watch(target)
        self._sorts: set[str] = set()

    async def hundred(self, sender: Sender, kind: str, number: int) -> None:
        """One of a kind: sent, and looked after."""
        shots = made(KINDS[kind][1], self._seed * 1000 + number)
        sender.ids = prepared(self._target)
        limit = asyncio.Semaphore(_AT_ONCE)
        ends = self.ends.setdefault(kind, Counter())

        async def one(shot: Shot) -> tuple[Shot, Outcome]:
            async with limit:
                began = time.monotonic()
                outcome = await sender.send(shot)
                self.slowest[kind] = max(self.slowest[kind], round(time.monotonic() - began))
            ends[outcome.status] += 1
            return shot, outcome

        for shot, outcome in await asyncio.gather(*map(one, shots)):
            if outcome.problem:
                self._defect(kind, number, outcome.problem, shown(shot))
        problems = await asyncio.to_thread(self._watch.problems)
        for problem in problems:
            self._defect(kind, number, problem, "after this hundred")
        if problems:
            print(f"as before after {self._watch.wait_ready():.0f} s", flush=True)
            self._watch.renew()

    def _defect(self, kind: str, number: int, problem: str, shot: str) -> None:
        again = f"fuzz.py --seed {self._seed} --only {kind!r} --first {number} --hundreds 1"
        self.defects.append({"kind": kind, "problem": problem, "request": shot, "again": again})
        # One of a sort is enough to read.
        sort = re.sub(r"[\d'\"].*", "", problem)
        if sort not in self._sorts:
            self._sorts.add(sort)
            print(f"DEFECT {kind}: {problem}\n  {shot}\n  {again}", flush=True)


async def run(target: Target, arguments: argparse.Namespace) -> Run:
    """All that is asked for."""
    found = Run(target, arguments.seed)
    async with Sender(target) as sender:
        for kind, (hundreds, _) in KINDS.items():
            if arguments.only and kind != arguments.only:
                continue
            count = arguments.hundreds or hundreds
            for number in range(arguments.first, arguments.first + count):
                began = time.monotonic()
                await found.hundred(sender, kind, number)
                took = time.monotonic() - began
                print(f"{kind} {number}: {dict(found.ends[kind])}, {took:.0f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="one kind", choices=KINDS)
    parser.add_argument("--first", type=int, default=0, help="number of the first hundred")
    parser.add_argument("--hundreds", type=int, default=0, help="of each kind; 0: as many as fit")
    parser.add_argument("--out", type=Path, help="docs/benchmarks/fuzz: writes .json and .md")
    arguments = parser.parse_args()
    # Every message that cannot be sent again would be a warning.
    logging.getLogger("httpx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, fuzzed(Path(folder)) as target:
        began = time.monotonic()
        found = asyncio.run(run(target, arguments))
        seconds = time.monotonic() - began
    if arguments.out is not None:
        write(arguments.out, arguments.seed, seconds, DEADLINE_S, found.ends, found.slowest,
              found.defects)  # fmt: skip
    total = sum(ends.total() for ends in found.ends.values())
    print(f"{total} requests, {len(found.defects)} defects")


if __name__ == "__main__":
    main()
