"""The README's figures, from the benchmarks' results: ``python benchmarks/summary.py``.

Each race of docs/benchmarks/*.json becomes a row: the best peer, Atoll in each dtype, and the ratio
of Atoll's best to that peer. A test compares the README with this.
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

from harness.measure import markdown

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "benchmarks"
DTYPES = ("fp32", "bf16", "int8", "int4")
# Models of docs/benchmarks/gpu.md that the README shows.
GENERATORS = ("Llama-2-7B", "Mistral-7B", "StarCoder", "Falcon-40B")
HEADINGS = {
    "embed": "Embeddings, sentences (or texts) per second",
    "generate": "Generation, tokens per second",
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
    return "\n\n".join([*parts, *_gpu()]) + "\n"


def _gpu() -> list[str]:
    """What docs/benchmarks/gpu.json found, beside the device's limits."""
    phases = json.loads((FOLDER / "gpu.json").read_text())["phases"]
    found = {row["name"]: row["value"] for row in phases["environment"]["rows"]}
    steps = {(r["model"], r["batch"]): r for r in phases["decode"]["rows"] if "share" in r}
    batches = sorted({batch for _, batch in steps})
    rows = []
    for model in GENERATORS:
        own = [steps.get((model, batch)) for batch in batches]
        cells = ["" if r is None else f"{r['tokens_per_s']:,.0f} ({r['share']:.0%})" for r in own]
        rows.append([model, *cells])
    texts = ", ".join(
        f"{r['model']} {r['sequences_per_s']:,.0f} ({r['share']:.0%})"
        for r in phases["encoder"]["rows"] if r["length"] == 512
    )  # fmt: skip
    return [
        f"**On a GPU** ({found['name']}, torch {_version(found['versions'])}, bfloat16, texts in "
        f"float16, {phases['decode']['started'][:10]}): engine steps with 512 tokens of context, "
        "measured in a separate process, since a served model has not run on a GPU yet. In "
        "parentheses: the share of what the card's memory and tensor cores allow. "
        f"Texts of 512 tokens per second: {texts}. All kernels and models: "
        "[GPU](docs/benchmarks/gpu.md).",
        markdown(("tokens per second", *(f"{batch} at once" for batch in batches)), rows),
    ]


def _version(versions: str) -> str:
    return versions.split(",")[0].split()[-1]


def _table(races: dict[str, list[dict[str, Any]]]) -> str:
    dtypes = [d for d in DTYPES if any(_ours(d) in _medians(race) for race in races.values())]
    has_engine = any(_engine(_medians(race)) for race in races.values())
    titles = [*dtypes, "best peer", "our best / best peer"]
    titles += ["our engine, in process", "/ best peer"] if has_engine else []
    lines = [
        f"| through the server | {' | '.join(titles)} |",
        f"|-|{'-:|' * len(dtypes)}-|-:|{'-|-:|' if has_engine else ''}",
    ]
    for title, race in races.items():
        medians = _medians(race)
        peers = {name: rate for name, rate in medians.items() if not name.startswith("Atoll")}
        peer = max(peers, key=lambda name: peers[name])
        ours = [medians.get(_ours(dtype)) for dtype in dtypes]
        best = max(rate for rate in ours if rate is not None)
        cells = ["" if rate is None else f"{rate:,.0f}" for rate in ours]
        cells += [f"{peer}: {peers[peer]:,.0f}", f"{best / peers[peer]:.2f}"]
        if has_engine:
            engine = _engine(medians)
            fastest = max(engine, key=lambda dtype: engine[dtype], default="")
            cells += (
                [f"{fastest}: {engine[fastest]:,.0f}", f"{engine[fastest] / peers[peer]:.2f}"]
                if engine
                else ["", ""]
            )
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _engine(medians: dict[str, float]) -> dict[str, float]:
    """Rates of the engine without a server, by dtype."""
    names = {dtype: f"Atoll {dtype}, engine" for dtype in DTYPES}
    return {dtype: medians[name] for dtype, name in names.items() if name in medians}


def _ours(dtype: str) -> str:
    return f"Atoll {dtype}, served"


def _medians(race: list[dict[str, Any]]) -> dict[str, float]:
    return {result["name"]: statistics.median(result["rates"]) for result in race}


def readme(text: str) -> str:
    """The README with the block replaced."""
    return _BLOCK.sub(lambda match: match.group(1) + _intro() + summary() + match.group(2), text)


def _intro() -> str:
    return (
        "All systems took turns within one run, and the figures are medians of the rounds. Each "
        "peer runs in its own process; Atoll runs behind tritonserver and gRPC. All systems with "
        "their spreads, accuracies and latencies: [embeddings](docs/benchmarks/embed.md), "
        "[generation](docs/benchmarks/generate.md), [kernels](docs/benchmarks/kernels.md), "
        "[gateway](docs/benchmarks/gateway.md). Where the time goes: "
        "[docs/performance.md](docs/performance.md). What 8 and 4 bits cost in quality: "
        "[docs/accuracy.md](docs/accuracy.md).\n\n"
    )


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(readme(path.read_text()))
