"""Conversations with real servers through a gateway: prompt tokens found in their caches."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from atoll.catalogue import ENTRIES, entry_for, read_model
from atoll.launcher import ServerOptions, ServerProcess, free_ports
from atoll.launcher.gateway import GatewayOptions, GatewayProcess

_EMBEDDED = "smollm2-135m-instruct"
# Of the model, whichever it is.
_MODEL = "generator"
_NUM_CONVERSATIONS, _NUM_TURNS, _AT_ONCE = 24, 5, 12
_SYSTEM = "You are a helpful assistant that answers in one word. " * 6
_QUESTIONS = "Tell me about the number {} and what it has to do with mathematics and history. " * 4


def served(num_servers: int, checkpoint: Path | None) -> list[dict[str, Any]]:
    """Figures of each setting of ``affinity``. checkpoint: in place of the embedded SmolLM2."""
    found = []
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(ServerProcess(options))
            for options in (_options(checkpoint) for _ in range(num_servers))
        ]
        for affinity in ("none", "prompt"):
            before = [_counts(server) for server in servers]
            _converse(servers, affinity)
            after = [_counts(server) for server in servers]
            hits, queried, requests = (
                [now[at] - then[at] for then, now in zip(before, after, strict=True)]
                for at in range(3)
            )
            found.append(
                {
                    "model": _EMBEDDED if checkpoint is None else checkpoint.name,
                    "servers": num_servers, "conversations": _NUM_CONVERSATIONS,
                    "turns": _NUM_TURNS, "affinity": affinity, "hits": sum(hits),
                    "queried": sum(queried), "requests": [int(one) for one in requests],
                }
            )  # fmt: skip
    return found


def _options(checkpoint: Path | None) -> ServerOptions:
    if checkpoint is None:
        entry = replace(next(one for one in ENTRIES if one.name == _EMBEDDED), name=_MODEL)
    else:
        entry = entry_for(str(checkpoint), read_model(checkpoint), name=_MODEL)
    return ServerOptions.on_free_ports(entries=(entry,), watch_interval_s=0.0)


def _converse(servers: list[ServerProcess], affinity: str) -> None:
    """Conversations whose turns are asked one after the other, several conversations at once."""
    options = GatewayOptions(
        ",".join(server.grpc_url for server in servers), "", port=free_ports(1)[0],
        settings={"affinity": affinity},
    )  # fmt: skip
    gateway = GatewayProcess(options)
    gateway.start()
    # One turn of each conversation after the other, as if their users think meanwhile.
    lock, told = threading.Lock(), [0] * _NUM_CONVERSATIONS

    def turn(number: int) -> None:
        with lock:
            told[number] += 1
        # Each setting has conversations of its own, so that none finds what another has left.
        question = f"{affinity} {number}: " + _QUESTIONS.format(*(number,) * 4)
        messages = [{"role": "system", "content": _SYSTEM}]
        for at in range(told[number]):
            messages.append({"role": "user", "content": f"{question} {at}"})
            if at + 1 < told[number]:
                messages.append({"role": "assistant", "content": "Yes. " * 20})
        body = {"model": _MODEL, "messages": messages, "max_tokens": 4, "temperature": 0}
        answer = httpx.post(f"{options.url}/v1/chat/completions", json=body, timeout=300)
        answer.raise_for_status()

    try:
        gateway.wait_ready()
        with ThreadPoolExecutor(_AT_ONCE) as workers:
            for _ in range(_NUM_TURNS):
                list(workers.map(turn, range(_NUM_CONVERSATIONS)))
    finally:
        gateway.stop()


def _counts(server: ServerProcess) -> list[float]:
    """Prompt tokens found in the cache, all that were looked up, and answers, since the start."""
    page = httpx.get(server.metrics_url, timeout=30).text
    names = (
        "atoll_prefix_hit_tokens_total", "atoll_prefix_queried_tokens_total",
        "atoll_request_seconds_count",
    )  # fmt: skip
    label = f'model="{_MODEL}"'
    return [
        sum(
            float(line.rsplit(" ", 1)[1])
            for line in page.splitlines()
            if line.startswith(name) and label in line
        )
        for name in names
    ]
