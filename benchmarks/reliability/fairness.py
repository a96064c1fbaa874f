"""How long a client waits who shares the models with one who asks for far more.

``python benchmarks/reliability/fairness.py --out docs/benchmarks`` serves the two embedded models,
asks for an embedding of a short text and a chat of 40 tokens again and again, first alone and then
beside each of ``crowds.py``, who has another API key: with ``fair_scheduling``, and, if asked for,
without it.
Raises SystemExit: beside a crowd, a median is more than three times what it is alone; beside long
texts, which an encoder cannot divide, it may be.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "support"))

import httpx
from crowds import CROWDS, EMBEDDER, GENERATOR
from harness.measure import machine, markdown
from serving import serving

KEY, CROWD_KEY = "probe", "crowd"
# A text of 256 tokens cannot be divided, and alone takes several times as long as a short one.
_WHOLE = "8 requests of 32 long texts"
MOST = 3.0
NAMES = ("embedding", "first token", "chat of 40 tokens")
_LEAST_ROUNDS, _MOST_S = 5, 60.0
_CHAT = {
    "model": GENERATOR, "max_tokens": 40, "min_tokens": 40, "stream": True,
    "messages": [{"role": "user", "content": "What is a lagoon?"}],
}  # fmt: skip

Times = dict[str, list[float]]


def probe(client: httpx.Client, seconds: float) -> Times:
    """Milliseconds of each thing, for so long, and at least some rounds."""
    times: Times = {name: [] for name in NAMES}
    began = time.perf_counter()
    while True:
        at = time.perf_counter()
        body = {"model": EMBEDDER, "input": "What is deep learning?"}
        client.post("/v1/embeddings", json=body).raise_for_status()
        times["embedding"].append(time.perf_counter() - at)
        at, first = time.perf_counter(), None
        with client.stream("POST", "/v1/chat/completions", json=_CHAT) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if first is None and '"content"' in line:
                    first = time.perf_counter()
        assert first is not None, "a chat without a token"
        times["first token"].append(first - at)
        times["chat of 40 tokens"].append(time.perf_counter() - at)
        taken = time.perf_counter() - began
        if taken > _MOST_S or (taken > seconds and len(times["embedding"]) >= _LEAST_ROUNDS):
            return {name: [1000 * one for one in found] for name, found in times.items()}


@contextmanager
def crowd(name: str, url: str) -> Iterator[dict[str, float]]:
    """``with``: it is under way. The value has what it got a second, after the block."""
    script = Path(__file__).with_name("crowds.py")
    done: dict[str, float] = {}
    with subprocess.Popen(
        [sys.executable, str(script), name, f"--url={url}", f"--key={CROWD_KEY}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n", f"{name} has ended"
            yield done
            assert process.poll() is None, f"{name} has ended before its time"
            process.stdin.close()
            done |= json.loads(process.stdout.readline())
        finally:
            process.kill()


def measure(is_fair: bool, seconds: float, names: list[str]) -> dict[str, Any]:
    """Times alone and beside each crowd, and what the crowd got."""
    with tempfile.TemporaryDirectory() as folder:
        setting = str(is_fair).lower()
        options = {"ATOLL_GATEWAY_API_KEY": f"{KEY},{CROWD_KEY}", "ATOLL_FAIR_SCHEDULING": setting}
        with serving(
            Path(folder), f"--model-id={EMBEDDER}", f"--model-id={GENERATOR}", **options
        ) as server, httpx.Client(
            base_url=server.url(), headers={"authorization": f"Bearer {KEY}"}, timeout=300
        ) as client:  # fmt: skip
            probe(client, 2.0)
            found: dict[str, Any] = {}
            for name in names:
                # Alone just before: machines do not always run at the same speed.
                alone = probe(client, seconds)
                with crowd(name, server.url()) as done:
                    beside = probe(client, seconds)
                found[name] = {"alone_ms": alone, "beside_ms": beside, "crowd_per_s": done}
                print(name, "fair:", setting, _ratios(found[name]), done, flush=True)
                _wait_until_idle(client)
    return found


def _wait_until_idle(client: httpx.Client) -> None:
    """What a crowd has left behind is cancelled within moments, and a batch is given up."""
    headers = {"authorization": f"Bearer {CROWD_KEY}"}
    for one in client.get("/v1/batches", headers=headers).json()["data"]:
        if one["status"] not in ("completed", "failed", "expired", "cancelled"):
            client.post(f"/v1/batches/{one['id']}/cancel", headers=headers).raise_for_status()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = client.get("/metrics").text.splitlines()
        held = [line for line in lines if line.startswith(("atoll_requests_running",
                                                           "atoll_requests_waiting"))]  # fmt: skip
        if all(float(line.split()[-1]) == 0 for line in held):
            return
        time.sleep(0.5)
    raise SystemExit("a crowd has gone, and its requests are still there")


def _ratios(found: dict[str, Any]) -> dict[str, float]:
    """Medians beside the crowd by those alone."""
    return {
        name: statistics.median(found["beside_ms"][name])
        / statistics.median(found["alone_ms"][name])
        for name in NAMES
    }


def page(found: dict[str, Any]) -> str:
    """The tables."""
    parts = [
        "# Clients beside each other", machine(),
        "`python benchmarks/reliability/fairness.py --out docs/benchmarks`",
        "One client asks for an embedding of a short text and for a chat of 40 tokens, one after "
        "the other. Medians in milliseconds, alone and beside a second client with another key, "
        "all on the same cores: the models, the gateway and both clients.",
    ]  # fmt: skip
    for title, runs in found.items():
        rows = []
        for name, run in runs.items():
            row = [name]
            for what, ratio in _ratios(run).items():
                alone, beside = (statistics.median(run[key][what])
                                 for key in ("alone_ms", "beside_ms"))  # fmt: skip
                row.append(f"{alone:.1f} → {beside:.1f} ({ratio:.1f})")
            got = [f"{n:,.0f} {what}" for what, n in run["crowd_per_s"].items()]
            row.append(", ".join(got) or "no whole request")
            rows.append(row)
        parts += [f"## {title}", markdown(["beside", *NAMES, "the other gets, a second"], rows)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Raises SystemExit: a median is more than ``MOST`` times what it is alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--crowds", nargs="*", choices=[*CROWDS], default=[*CROWDS])
    parser.add_argument(
        "--without", action="store_true", help="fair scheduling; takes minutes more"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = {"With fair scheduling": measure(True, given.seconds, given.crowds)}
    if given.without:
        found["Without"] = measure(False, given.seconds, given.crowds)
    if given.out is not None:
        (given.out / "fairness.json").write_text(json.dumps(found, indent=1) + "\n")
        (given.out / "fairness.md").write_text(page(found))
    print(page(found))
    fair = found["With fair scheduling"]
    slow = [f"{name}: {_ratios(run)}" for name, run in fair.items()
            if name != _WHOLE and max(_ratios(run).values()) > MOST]  # fmt: skip
    if slow:
        raise SystemExit("more than three times as long as alone: " + "; ".join(slow))


if __name__ == "__main__":
    main()
