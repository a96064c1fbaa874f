"""``atoll profile``: where the time of requests goes, from the model's metrics before and after.

Triton's durations end when a model has accepted a request, so they do not cover its work; the
models count the seconds of each part themselves (``atoll.serving.triton.latency_breakdown``).
"""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console

from atoll.cli.bench import served_task
from atoll.cli.load import measure
from atoll.cli.options import URL, AsJson, Key, ServedName, Timeout, Url, has_http, print_json
from atoll.cli.tables import print_table
from atoll.errors import ConfigError
from atoll.serving.triton import latency_breakdown

_OUTSIDE = "Triton, the gateway if it was asked, the network, the client"
# Of encoders and of generators.
_REQUESTS = ("atoll_requests_total", "atoll_requests_succeeded_total")
_BATCHES = ("atoll_batch_tokens_count", "atoll_engine_steps_total")
_METRICS_PORT = 8002
# Models publish their metrics a moment after an answer.
_PATIENCE_S = 5.0
_LINE = re.compile(r'(\w+)\{(?:[^}]*,)?model="((?:[^"\\]|\\.)*)"[^}]*\} (\S+)')


def profile(
    model: ServedName,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 4,
    requests: Annotated[int, typer.Option(min=1, help="Requests in total.")] = 100,
    words: Annotated[int, typer.Option(min=1, help="Words per text.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens per generated answer.")] = 32,
    url: Url = URL,
    key: Key = None,
    metrics_url: Annotated[
        str | None,
        typer.Option(
            help="The server's or the gateway's metrics page; by default, port 8002 of the "
            "server's host, or /metrics of the address."
        ),
    ] = None,
    timeout: Timeout = 600.0,
    as_json: AsJson = False,
) -> None:
    """Send requests to a model of a running server and show where their time goes."""
    task = served_task(url, model, timeout, key)
    page = _page_of(url, metrics_url, model)
    before: dict[str, float] = {}
    with Console(stderr=True).status(f"sending requests to {model}"):
        load = measure(
            None, url, model, task, concurrency=concurrency, requests=requests, words=words,
            max_tokens=max_tokens, timeout_s=timeout, key=key,
            on_ready=lambda: before.update(_counters(page, model)),
        )  # fmt: skip
        gained = _gained(page, model, before, requests)
    table = latency_breakdown.GENERATE if task == "generate" else latency_breakdown.ENCODER
    count = max(_first(gained, _REQUESTS), 1)
    mean_ms = 1000 * sum(load.latencies_s) / len(load.latencies_s)
    spent = {
        part: 1000 * gained.get(latency_breakdown.counter(part), 0.0) / count for part in table
    }
    spent["outside"] = max(mean_ms - sum(spent.values()), 0.0)
    facts = {
        "model": model, "task": task, "requests": round(_first(gained, _REQUESTS)),
        "batches": round(_first(gained, _BATCHES)), "requests_per_s": load.requests_per_s,
        "mean_ms": mean_ms, "parts_ms": spent,
    }  # fmt: skip
    if as_json:
        print_json(facts)
        return
    print_table(
        ("part", "ms a request", "share", "what it is"),
        [
            (part.replace("_", " "), f"{ms:.3f}", f"{ms / mean_ms:.0%}", table.get(part, _OUTSIDE))
            for part, ms in spent.items()
        ],
    )
    kind = "steps" if task == "generate" else "packs"
    print(
        f"{facts['requests']} requests in {facts['batches']} {kind}, "
        f"{load.requests_per_s:.1f} a second, {mean_ms:.2f} ms on average"
    )


def _page_of(url: str, metrics_url: str | None, model: str) -> str:
    """The address of the page with the model's metrics.

    Raises:
        ConfigError: none of the possible addresses can be read.
    """
    parsed = urlsplit(url if "://" in url else f"grpc://{url}")
    guesses = [f"http://{parsed.hostname or 'localhost'}:{_METRICS_PORT}/metrics"]
    if has_http(url):
        guesses.insert(0, f"{url.rstrip('/')}/metrics")
    # A model that has had no request has no metrics yet.
    readable, found = [], ""
    for page in [metrics_url] if metrics_url else guesses:
        try:
            if _counters(page, model):
                return page
            readable.append(page)
        except ConfigError as error:
            found += f"; {error}"
    if not readable:
        raise ConfigError(f"--metrics-url has to say where the server's metrics are{found}")
    return readable[0]


def _gained(page: str, model: str, before: Mapping[str, float], requests: int) -> dict[str, float]:
    """How much the counters have grown, once they include the load's requests.

    Raises:
        ConfigError: the page has nothing about the model.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        after = _counters(page, model)
        gained = {name: value - before.get(name, 0.0) for name, value in after.items()}
        if _first(gained, _REQUESTS) >= requests:
            return gained
        if time.monotonic() > deadline:
            if not gained:
                raise ConfigError(
                    f"{page} tells nothing of {model!r}: --metrics-url has to say where the "
                    "metrics of its server are"
                )
            return gained
        time.sleep(0.1)


def _first(values: Mapping[str, float], names: tuple[str, ...]) -> float:
    return next((values[name] for name in names if name in values), 0.0)


def _counters(page: str, model: str) -> dict[str, float]:
    """The models' own metrics of one model, by name, summed over servers.

    Raises:
        ConfigError: there is no such page.
    """
    try:
        with urllib.request.urlopen(page, timeout=10) as response:
            text = response.read().decode(errors="replace")
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise ConfigError(f"{page}: {error}") from error
    found: dict[str, float] = {}
    for name, labelled, value in _LINE.findall(text):
        if labelled == model and name.startswith("atoll_"):
            found[name] = found.get(name, 0.0) + float(value)
    return found
