"""Embeddings through the real server next to libraries that people embed with, in one run.

``python benchmarks/peers/embed.py --out docs/benchmarks`` measures, with every contestant taking
turns: texts of mixed length with all-MiniLM-L6-v2 and with a model of bge-base's shape (random
weights), one short text at a time, and the server under perf_analyzer. ``--models`` chooses others
of ``embed_shapes``: ModernBERT-base, Qwen3-Embedding-0.6B; ``--leave-out`` is for contestants that
do not fit into memory beside the rest. Every contestant's vectors are compared with
sentence-transformers' in float32. Each library runs in its own process, is built once, and is timed
there, without the pipe. After each model, it writes ``embed.json``, ``.md`` and ``.svg``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))


from embed_peers import peers
from embed_shapes import SHAPES
from harness.apart import contestant
from harness.measure import Result, machine, markdown, race, table, versions, write
from harness.served import DTYPES, server_of, through_server
from harness.texts import Embed, mixed_lengths, texts
from infinity import served_by_infinity

from atoll.launcher.perf_analyzer import PerfAnalyzer

_DTYPES = ["fp32", "bf16", "int8"]
PACKAGES = ["torch", "sentence-transformers", "onnxruntime", "openvino", "ctranslate2"]
BASELINE = "sentence-transformers fp32"
SHORT = "What is the capital of France?"


def mixed(contestants: Mapping[str, Embed], documents: list[str], rounds: int) -> list[Result]:
    """The race over all documents, with each contestant's lowest cosine with the baseline."""
    expected = contestants[BASELINE](documents)
    entrants = {
        name: contestant(len(documents), embed, documents) for name, embed in contestants.items()
    }
    results = race(entrants, "sentences/s", rounds)
    for r in results:
        least = float((contestants[r.name](documents) * expected).sum(1).min())
        r.cells["least cosine"] = f"{least:.4f}"
    return results


def latency(contestants: Mapping[str, Embed], rounds: int, calls: int = 50) -> list[Result]:
    """One short text at a time."""
    entrants = {
        name: contestant(calls, embed, [SHORT], calls=calls) for name, embed in contestants.items()
    }
    results = race(entrants, "texts/s", rounds)
    for r in results:
        r.cells["ms"] = f"{1000 / r.median:.2f}"
    return results


def under_load(url: str, model: str, documents: list[str]) -> str:
    """A table of perf_analyzer's figures at 1, 8 and 64 requests in flight, one text each."""
    rows = []
    for concurrency in (1, 8, 64):
        report = PerfAnalyzer.find().run(
            url, model, [{"text_input": [text]} for text in documents],
            concurrency=concurrency, requests=max(200, 20 * concurrency),
        )  # fmt: skip
        times = (f"{ms:.2f}" for ms in (report.p50_ms, report.p99_ms))
        rows.append((str(concurrency), f"{report.requests_per_s:.0f}", *times))
    return markdown(("requests in flight", "texts/s", "p50 ms", "p99 ms"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--name", default="embed", help="of the three files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=["minilm", "bge-base"])
    parser.add_argument(
        "--leave-out", nargs="*", default=[], help="how names of libraries begin, and infinity's"
    )
    parser.add_argument("--dtypes", nargs="+", choices=_DTYPES, default=_DTYPES)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "atoll-embed")
    parser.add_argument("--infinity", type=Path, help="the program infinity_emb, if it is to race")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    documents = texts(mixed_lengths(arguments.texts, 8, 256))
    races: dict[str, list[Result]] = {}
    method = (
        "Every library runs in its own process, and so does Atoll's engine; Atoll is also measured "
        "as it is served, behind tritonserver and gRPC."
    )
    parts = [f"{machine()}; {versions(PACKAGES)}", method]
    for shape in (SHAPES[name] for name in arguments.models):
        model, chosen = shape.title, documents[:: shape.every]
        folder, left_out = shape.folder(arguments.cache), (*shape.left_out, *arguments.leave_out)
        print(model, flush=True)
        with ExitStack() as stack:
            entries = {name: (folder, {"dtype": DTYPES[name]}) for name in arguments.dtypes}
            server = stack.enter_context(server_of(entries))
            libraries = peers(folder, shape.pooling, arguments.cache, left_out)
            contestants = dict(stack.enter_context(libraries))
            if arguments.infinity is not None and "infinity" not in left_out:
                infinity = served_by_infinity(arguments.infinity, folder)
                contestants["infinity fp32, served"] = stack.enter_context(infinity)
            for dtype in arguments.dtypes:
                contestants[f"Atoll {dtype}, served"] = through_server(server.grpc_url, dtype)
            results = mixed(contestants, chosen, arguments.rounds)
            races[f"{model}, mixed lengths"] = results
            parts.append(
                f"**{model}: {len(chosen)} texts of 8 to 256 words**\n\n{table(results, BASELINE)}"
            )
            results = latency(contestants, arguments.rounds)
            races[f"{model}, one short text at a time"] = results
            parts.append(f"**{model}: one short text at a time**\n\n{table(results, BASELINE)}")
            parts.append(
                f"**{model}, {arguments.dtypes[-1]}, perf_analyzer, a text of mixed length per "
                f"request**\n\n{under_load(server.grpc_url, arguments.dtypes[-1], chosen[:256])}"
            )
            write(arguments.out, arguments.name, parts, races)  # what is measured is kept
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
