"""The README's figures, from the files that the benchmarks left: ``python benchmarks/summary.py``.

Each race of docs/benchmarks/*.json becomes a row: the best peer, Atoll in each dtype, and the ratio
of Atoll's best to that peer. A test keeps the README equal to this.
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "benchmarks"
DTYPES = ("fp32", "bf16", "int8", "int4")
HEADINGS = {
    "embed": "Embeddings, sentences (or texts) a second",
    "generate": "Generation, tokens a second",
}

_BLOCK = re.compile(r"(<!-- benchmarks:start -->\n).*(<!-- benchmarks:end -->)", re.S)


def summary() -> str:
    """The block between the README's benchmark marks."""
    parts = []
    for name, heading in HEADINGS.items():
        found = json.loads((FOLDER / f"{name}.json").read_text())
        parts += [
            f"**{heading}** ({found['machine']})",
            _table(found["races"]),
            f"![{heading}](docs/benchmarks/{name}.svg)",
        ]
    return "\n\n".join(parts) + "\n"


def _table(races: dict[str, list[dict[str, Any]]]) -> str:
    dtypes = [d for d in DTYPES if any(_ours(d) in _medians(race) for race in races.values())]
    lines = [
        f"| through the server | {' | '.join(dtypes)} | best peer | best of ours / of peers |",
        f"|-|{'-:|' * len(dtypes)}-|-:|",
    ]
    for title, race in races.items():
        medians = _medians(race)
        peers = {name: rate for name, rate in medians.items() if not name.startswith("Atoll")}
        peer = max(peers, key=lambda name: peers[name])
        ours = [medians.get(_ours(dtype)) for dtype in dtypes]
        best = max(rate for rate in ours if rate is not None)
        cells = ["" if rate is None else f"{rate:,.0f}" for rate in ours]
        lines.append(
            f"| {title} | {' | '.join(cells)} | {peer}: {peers[peer]:,.0f} "
            f"| {best / peers[peer]:.2f} |"
        )
    return "\n".join(lines)


def _ours(dtype: str) -> str:
    return f"Atoll {dtype}, served"


def _medians(race: list[dict[str, Any]]) -> dict[str, float]:
    return {result["name"]: statistics.median(result["rates"]) for result in race}


def readme(text: str) -> str:
    """The README with the block replaced."""
    return _BLOCK.sub(lambda match: match.group(1) + _intro() + summary() + match.group(2), text)


def _intro() -> str:
    return (
        "Every contestant took turns in one run; the figures are medians of the rounds. Each peer "
        "runs in a process of its own, Atoll behind tritonserver and gRPC. All contestants, "
        "spreads, accuracies and latencies: [embeddings](docs/benchmarks/embed.md), "
        "[generation](docs/benchmarks/generate.md), [kernels](docs/benchmarks/kernels.md), "
        "[gateway](docs/benchmarks/gateway.md); where the time goes: "
        "[docs/performance.md](docs/performance.md); what 8 and 4 bits cost in quality: "
        "[docs/accuracy.md](docs/accuracy.md). llama.cpp is built without AMX, with which "
        "its release 0.3.36 crashed on this machine.\n\n"
    )


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(readme(path.read_text()))
