"""``atoll profile``: where the server spends its time, from its own counters around a load."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from atoll.cli.bench import served_task
from atoll.cli.load import measure
from atoll.cli.options import URL, AsJson, GrpcUrl, ServedName, Timeout, print_json
from atoll.errors import ConfigError

_PARTS = ("queue", "compute_input", "compute_infer", "compute_output")
_MEANINGS = {
    "queue": "waiting in the server's queue",
    "compute_input": "handing tensors to the model",
    "compute_infer": "taking the requests in",
    "compute_output": "until Triton has its thread back",
    "outside": "the model's work, which Triton does not time; network, front end, client",
}


def profile(
    model: ServedName,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 4,
    requests: Annotated[int, typer.Option(min=1, help="Requests in all.")] = 100,
    words: Annotated[int, typer.Option(min=1, help="Words of each text.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each generated answer.")] = 32,
    url: GrpcUrl = URL,
    timeout: Timeout = 600.0,
    as_json: AsJson = False,
) -> None:
    """Send requests to a model of a running server and show where their time goes."""
    task = served_task(url, model, timeout)
    before: dict[str, int] = {}
    with Console(stderr=True).status(f"sending requests to {model}"):
        load = measure(
            None, url, model, task, concurrency=concurrency, requests=requests, words=words,
            max_tokens=max_tokens, timeout_s=timeout,
            on_ready=lambda: before.update(_statistics(url, model)),
        )  # fmt: skip
    after = _statistics(url, model)
    gained = {key: after[key] - before[key] for key in after}
    count = max(gained["requests"], 1)
    parts = {part: gained[part] / 1e6 / count for part in _PARTS}
    mean_ms = 1000 * sum(load.latencies_s) / len(load.latencies_s)
    parts["outside"] = max(mean_ms - sum(parts.values()), 0.0)
    facts = {
        "model": model, "task": task, "requests": gained["requests"],
        "executions": gained["executions"], "requests_per_s": load.requests_per_s,
        "mean_ms": mean_ms, "parts_ms": parts,
    }  # fmt: skip
    if as_json:
        print_json(facts)
        return
    table = Table("part", "ms a request", "share", "what it is")
    for part, spent in parts.items():
        share = f"{spent / mean_ms:.0%}"
        table.add_row(part.replace("_", " "), f"{spent:.3f}", share, _MEANINGS[part])
    console = Console()
    console.print(table)
    print(
        f"{gained['requests']} requests in {gained['executions']} executions, "
        f"{load.requests_per_s:.1f} a second, {mean_ms:.2f} ms on average"
    )


def _statistics(url: str, model: str) -> dict[str, int]:
    """The server's counters of a model: requests, executions, and nanoseconds of each part.

    Raises:
        ConfigError: the server does not tell.
    """
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    try:
        with InferenceServerClient(url) as client:
            found = client.get_inference_statistics(model).model_stats[0]
    except (InferenceServerException, IndexError) as error:
        raise ConfigError(f"{url} tells no statistics of {model!r}: {error}") from error
    stats: Any = found.inference_stats
    return {
        "requests": stats.success.count,
        "executions": found.execution_count,
        **{part: getattr(stats, part).ns for part in _PARTS},
    }
