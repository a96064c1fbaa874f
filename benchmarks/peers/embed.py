"""Embeddings through the real server beside the libraries people embed with, in one run.

``python benchmarks/peers/embed.py --out docs/benchmarks`` measures, with every contestant taking
turns: texts of mixed length with all-MiniLM-L6-v2 and with a model of bge-base's shape (random
weights), one short text at a time, and the server under perf_analyzer. Every contestant's vectors
are compared with sentence-transformers' in float32. Every library runs in a process of its own,
built once, and is timed there: the pipe to it costs it nothing. It writes ``embed.json``, ``.md``
and ``.svg``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))


import numpy as np
import torch
import tritonclient.grpc as triton
from embed_peers import Embed, Floats, peers
from harness.apart import contestant
from harness.measure import Result, machine, plot, race, save, table, versions
from harness.served import in_parallel
from harness.texts import mixed_lengths, texts
from infinity import served_by_infinity

from atoll.catalogue import entry_for, read_model
from atoll.launcher import ServerOptions, ServerProcess
from atoll.launcher.perf_analyzer import PerfAnalyzer
from atoll.weights.files import resolve

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}
PACKAGES = ["torch", "sentence-transformers", "onnxruntime", "openvino", "ctranslate2"]
BASELINE = "sentence-transformers fp32"
SHORT = "What is the capital of France?"
ROWS = 32


@contextmanager
def served(folder: Path, dtypes: Sequence[str]) -> Iterator[ServerProcess]:
    """One server with an entry per dtype, named by it."""
    entry = entry_for(str(folder), read_model(folder), name="model")
    entries = tuple(
        replace(entry, name=name, settings={**entry.settings, "dtype": DTYPES[name]})
        for name in dtypes
    )
    with ServerProcess(ServerOptions.on_free_ports(entries=entries, watch_interval_s=0)) as server:
        yield server


def through_server(url: str, model: str) -> Embed:
    """Requests of ``ROWS`` texts over gRPC, eight in flight."""
    client = triton.InferenceServerClient(url)

    def embed(documents: list[str]) -> Floats:
        batches = [
            (start, documents[start : start + ROWS]) for start in range(0, len(documents), ROWS)
        ]
        found: dict[int, Floats] = {}

        def one(batch: tuple[int, list[str]]) -> None:
            start, rows = batch
            data = np.array(rows, dtype=object).reshape(-1, 1)
            tensor = triton.InferInput("text_input", list(data.shape), "BYTES")
            tensor.set_data_from_numpy(data)
            found[start] = client.infer(model, [tensor]).as_numpy("embedding")

        if len(batches) == 1:
            one(batches[0])
        else:
            in_parallel(batches, one, workers=min(8, len(batches)))
        return np.concatenate([found[start] for start, _ in batches])

    return embed


def mixed(contestants: Mapping[str, Embed], documents: list[str], rounds: int) -> list[Result]:
    """The race over all documents, with every contestant's least cosine to the baseline."""
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


def bge_base_shape(cache: Path) -> Path:
    """A folder with BERT-base's sizes, random weights, MiniLM's tokenizer and cls pooling."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = cache / "bge-base-shape"
    if (folder / "modules.json").exists():
        return folder
    torch.manual_seed(0)
    # ctranslate2's converter asks for a field that transformers no longer writes by itself.
    BertModel(BertConfig(position_embedding_type="absolute")).save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(resolve(MINILM))).save_pretrained(folder)
    pooling = folder / "1_Pooling"
    pooling.mkdir(exist_ok=True)
    (pooling / "config.json").write_text(
        json.dumps(
            {
                "word_embedding_dimension": 768,
                "pooling_mode_cls_token": True,
                "pooling_mode_mean_tokens": False,
            }
        )
    )
    steps = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def under_load(url: str, model: str, documents: list[str]) -> list[str]:
    """perf_analyzer at 1, 8 and 64 requests in flight, one text each: rows of a table."""
    rows = []
    for concurrency in (1, 8, 64):
        report = PerfAnalyzer.find().run(
            url, model, [{"text_input": [text]} for text in documents],
            concurrency=concurrency, requests=max(200, 20 * concurrency),
        )  # fmt: skip
        rows.append(
            f"| {concurrency} | {report.requests_per_s:.0f} "
            f"| {report.p50_ms:.2f} | {report.p99_ms:.2f} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
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
    shapes = {
        "all-MiniLM-L6-v2": (resolve(MINILM), "mean", documents),
        # A sixth of the texts: each costs eight times as much.
        "bge-base shape": (bge_base_shape(arguments.cache), "cls", documents[::6]),
    }
    for model, (folder, pooling, chosen) in shapes.items():
        print(model, flush=True)
        with ExitStack() as stack:
            server = stack.enter_context(served(folder, arguments.dtypes))
            contestants = dict(stack.enter_context(peers(folder, pooling, arguments.cache)))
            if arguments.infinity is not None:
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
            rows = under_load(server.grpc_url, arguments.dtypes[-1], chosen[:256])
            head = "| requests in flight | texts/s | p50 ms | p99 ms |\n|-|-:|-:|-:|\n"
            parts.append(
                f"**{model}, {arguments.dtypes[-1]}, perf_analyzer, a text of mixed length per "
                f"request**\n\n{head}" + "\n".join(rows)
            )
    arguments.out.mkdir(parents=True, exist_ok=True)
    save(arguments.out / "embed.json", races)
    plot(arguments.out / "embed.svg", races, "Atoll")
    report = "\n\n".join(parts) + "\n"
    (arguments.out / "embed.md").write_text(report)
    print(report)


if __name__ == "__main__":
    main()
