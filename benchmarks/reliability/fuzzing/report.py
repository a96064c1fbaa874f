"""The figures of a run as JSON and as a page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TEXT = """# Requests that make no sense

`python benchmarks/reliability/fuzz.py --seed {seed} --out docs/benchmarks/fuzz` starts \
`atoll serve` with ten models (embedder, generator, reranker, classifier, token classifier, \
Whisper, pipelines, \
conversations) and sends requests that hypothesis has made: documented examples with members \
changed, absent or doubled, damaged JSON, forms, compressed bodies and tensors, protobuf messages \
changed in fields and in bytes, and bytes that are no HTTP. Each has a deadline of \
{deadline:.0f} s. After each hundred, every process is the same as before, no log has a \
traceback, no request or KV \
block is held, /dev/shm has no more files, and probes are answered as before. What is not so, an \
answer 5xx (but 501, and 503 with `retry-after`), gRPC's `INTERNAL`, `UNKNOWN` and the like, and a \
request without an end are defects.

{total} requests in {seconds:.0f} s: **{defects} defects**.

| sent to | requests | how they ended | the slowest, s | defects |
|-|-|-|-|-|
{rows}

What Triton itself answers on its own ports is counted, but not judged: much of what clients do \
wrong is 500 or `INTERNAL` there. Processes, logs and probes are judged after those, too.
"""


def write(
    path: Path, seed: int, seconds: float, deadline: float, ends: Mapping[str, Counter[str]],
    slowest: Mapping[str, int], defects: list[dict[str, str]],
) -> None:  # fmt: skip
    """path: without its ending."""
    by_kind = Counter(one["kind"] for one in defects)
    found: dict[str, Any] = {
        "seed": seed,
        "seconds": round(seconds),
        "ends": {kind: dict(counts) for kind, counts in ends.items()},
        "slowest_s": dict(slowest),
        "defects": defects,
    }
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    rows = "\n".join(
        f"| {kind} | {counts.total()} | {_listed(counts)} | {slowest[kind]} | {by_kind[kind]} |"
        for kind, counts in ends.items()
    )
    total = sum(counts.total() for counts in ends.values())
    path.with_suffix(".md").write_text(
        _TEXT.format(
            seed=seed, seconds=seconds, deadline=deadline, total=f"{total:,}",
            defects=len(defects), rows=rows,
        )
    )  # fmt: skip


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
