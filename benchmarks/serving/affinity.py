"""What it brings to send a conversation's turns to the same server: simulated, and with servers.

``python benchmarks/serving/affinity.py --out docs/benchmarks`` writes ``affinity.json`` and
``affinity.md``. The simulation uses the gateway's own class ``Affinity``; servers are a prefix
cache and a processor that its requests share. ``--servers 4`` also starts that many real servers
with the embedded SmolLM2 (or ``--checkpoint``), and a gateway in front of them for each setting.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from affinity_served import served
from affinity_simulation import NUM_BLOCKS, NUM_CONVERSATIONS, NUM_SYSTEMS, NUM_TURNS, simulate
from harness.measure import machine

_COMMAND = (
    "python benchmarks/serving/affinity.py --servers 4 --checkpoint FOLDER --out docs/benchmarks"
)
_WAYS = {
    "least busy": ("none", 1.25),
    "affinity, load not bounded": ("session", 1e9),
    "affinity, 1.25": ("session", 1.25),
    "affinity, 1.25, nothing remembered": ("forgetful", 1.25),
    "affinity, 2": ("session", 2.0),
}


def report(found: Sequence[dict[str, Any]], real: Sequence[dict[str, Any]]) -> str:
    """The page."""
    lines = [
        "# Which server a conversation goes to", "",
        f"{machine()}", "", f"`{_COMMAND}`", "",
        "## Simulated", "",
        f"{NUM_CONVERSATIONS} conversations of {NUM_TURNS} turns with one of {NUM_SYSTEMS} system",
        f"prompts; each server's prefix cache has {NUM_BLOCKS:,} blocks of 16 tokens. Hits are the",
        "share of the prompts' blocks that were found in the cache. The load is the number of open",
        "requests of the busiest server over the mean, when a request comes; times are relative to",
        "those of the first row.", "",
        "| servers | a request goes to | hits | busiest / mean | mean time | 99% of times |",
        "|-|-|-|-|-|-|",
        *(
            f"| {row['servers']} | {row['way']} | {row['hits']:.2f} | {row['load']:.2f} "
            f"| {row['mean']:.2f} | {row['p99']:.2f} |"
            for row in found
        ),
    ]  # fmt: skip
    if real:
        lines += [
            "", f"## {real[0]['servers']} real servers with {real[0]['model']}", "",
            f"{real[0]['conversations']} conversations of {real[0]['turns']} turns, 12 at a time,",
            "on the same cores; prompt tokens as the servers count them.", "",
            "| `affinity` | prompt tokens | found in a cache | share | requests per server |",
            "|-|-|-|-|-|",
            *(
                f"| {row['affinity']} | {row['queried']:,.0f} | {row['hits']:,.0f} "
                f"| {row['hits'] / row['queried']:.2f} | {', '.join(map(str, row['requests']))} |"
                for row in real
            ),
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of affinity.json and affinity.md")
    parser.add_argument("--servers", type=int, default=0, help="real servers to start")
    parser.add_argument("--checkpoint", type=Path, help="a generator for the real servers")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    for count in (4, 8):
        usual: dict[str, float] = {}
        for way, setting in _WAYS.items():
            row = simulate(count, *setting)
            usual = usual or row
            found.append(
                {
                    "servers": count, "way": way, "hits": row["hits"], "load": row["load"],
                    "mean": row["mean"] / usual["mean"], "p99": row["p99"] / usual["p99"],
                }
            )  # fmt: skip
    real = served(given.servers, given.checkpoint) if given.servers else []
    text = report(found, real)
    print(text)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "affinity.md").write_text(text)
        data = {"machine": machine(), "simulated": found, "served": real}
        (given.out / "affinity.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
