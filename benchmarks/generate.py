"""Text generation through the real server beside the libraries people call directly, in one run.

``python benchmarks/generate.py --out docs/benchmarks`` measures SmolLM2-135M-Instruct and a Llama
of 1.1 billion random weights with 1, 8 and 32 requests at once: tokens/s, time to the first token,
time per token after it, and how much of the answer is the one of transformers in float32. All get
the same prompts, as token ids, and give answers of the same length. It writes ``generate.json``,
``.md`` and ``.svg``.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tritonclient.grpc as triton
from generate_peers import Generate, peers
from measure import Contestant, Result, machine, plot, race, save, table, versions

from atoll.catalogue import entry_for, read_model
from atoll.launcher import ServerOptions, ServerProcess
from atoll.weights.files import resolve

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8", "int4": "int4"}
PACKAGES = ["torch", "transformers", "ctranslate2", "llama_cpp_python"]
BASELINE = "transformers bf16"
REFERENCE = "transformers fp32"
PROMPT_TOKENS = 64


@dataclass
class Times:
    """Seconds of each request: to the first token, and between one token and the next."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)


@contextmanager
def served(folder: Path, dtypes: Sequence[str]) -> Iterator[ServerProcess]:
    """One server with an entry per dtype, named by it. No prefix is reused between rounds."""
    entry = entry_for(str(folder), read_model(folder), name="model")
    entries = tuple(
        replace(
            entry,
            name=name,
            settings={**entry.settings, "dtype": DTYPES[name], "prefix_caching": "false"},
        )
        for name in dtypes
    )
    options = ServerOptions.on_free_ports(entries=entries, watch_interval_s=0)
    with ServerProcess(options) as server:
        yield server


class Streams:
    """Requests streamed over gRPC, all at once, each over a connection of its own."""

    def __init__(self, url: str, model: str) -> None:
        self._url, self._model, self.times = url, model, Times()

    def generate(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """Greedy answers of ``count`` tokens; adds to ``times``."""
        with ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(lambda prompt: self._one(prompt, count), prompts))

    def _one(self, prompt: list[int], count: int) -> list[int]:
        answers: queue.Queue[Any] = queue.Queue()
        client = triton.InferenceServerClient(self._url)
        client.start_stream(lambda result, error: answers.put((result, error)))
        sampling = {"temperature": 0, "max_tokens": count, "ignore_eos": True}
        values: list[tuple[str, str, Any]] = [
            ("input_ids", "INT32", np.array(prompt, dtype=np.int32)),
            ("stream", "BOOL", np.array([True])),
            ("return_token_ids", "BOOL", np.array([True])),
            ("sampling_parameters", "BYTES", np.array([json.dumps(sampling)], dtype=object)),
        ]
        inputs = []
        for name, kind, array in values:
            inputs.append(triton.InferInput(name, list(array.shape), kind))
            inputs[-1].set_data_from_numpy(array)
        sent = time.perf_counter()
        client.async_stream_infer(self._model, inputs, enable_empty_final_response=True)
        ids: list[int] = []
        first = last = sent
        while True:
            result, error = answers.get(timeout=600)
            if error is not None:
                raise error
            tokens = result.as_numpy("token_ids")
            if tokens is not None and tokens.size:
                last = time.perf_counter()
                first = first if ids else last
                ids += tokens.tolist()
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
        client.stop_stream()
        self.times.first.append(first - sent)
        self.times.between.append((last - first) / max(1, len(ids) - 1))
        return ids


def agreement(found: list[list[int]], expected: list[list[int]]) -> float:
    """Mean share of an answer before its first difference to the expected one."""
    shares = []
    for answer, right in zip(found, expected, strict=True):
        same = [a == b for a, b in zip(answer, right, strict=True)]
        shares.append(same.index(False) / len(same) if False in same else 1.0)
    return statistics.mean(shares)


def measured(
    contestants: Mapping[str, Generate],
    streams: Mapping[str, Streams],
    prompts: list[list[int]],
    count: int,
    rounds: int,
) -> tuple[list[Result], str]:
    """The race, and its table."""
    expected = contestants[REFERENCE](prompts, count)
    same = {
        name: f"{agreement(generate(prompts, count), expected):.0%}"
        for name, generate in contestants.items()
    }
    for stream in streams.values():
        stream.times = Times()

    def whole(generate: Generate) -> Contestant:
        return lambda: sum(len(answer) for answer in generate(prompts, count))

    entrants = {name: whole(generate) for name, generate in contestants.items()}
    results = race(entrants, "tokens/s", rounds)
    first, between = {}, {}
    for name, generate in contestants.items():
        if name in streams:
            times = streams[name].times
            seconds = statistics.median(times.first), statistics.median(times.between)
        else:
            # A library's first tokens come together: the time of an answer of one token.
            start = time.perf_counter()
            generate(prompts, 1)
            prefill = time.perf_counter() - start
            rate = next(r.median for r in results if r.name == name)
            seconds = prefill, (len(prompts) * count / rate - prefill) / (count - 1)
        first[name], between[name] = (f"{1000 * s:.1f}" for s in seconds)
    columns = {"first token ms": first, "per token ms": between, "as fp32": same}
    return results, table(results, BASELINE, columns)


def random_llama(cache: Path) -> Path:
    """TinyLlama's sizes with random weights in bfloat16, and SmolLM2's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = cache / "llama-1.1b"
    if (folder / "tokenizer.json").exists():
        return folder
    tokenizer = AutoTokenizer.from_pretrained(str(resolve(SMOLLM2)))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
        num_attention_heads=32, num_key_value_heads=4, max_position_embeddings=2048,
        rms_norm_eps=1e-5,
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--models", nargs="+", choices=["smollm2", "1.1b"], default=["smollm2"])
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    cache = Path(tempfile.gettempdir()) / "atoll-generate"
    parser.add_argument("--cache", type=Path, default=cache)
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    races: dict[str, list[Result]] = {}
    parts = [f"{machine()}; {versions(PACKAGES)}"]
    for model in arguments.models:
        folder = resolve(SMOLLM2) if model == "smollm2" else random_llama(arguments.cache)
        title = "SmolLM2-135M" if model == "smollm2" else "Llama 1.1B (random weights)"
        contestants = dict(peers(folder, arguments.cache))
        with served(folder, arguments.dtypes) as server:
            streams = {
                f"Atoll {dtype}, served": Streams(server.grpc_url, dtype)
                for dtype in arguments.dtypes
            }
            contestants |= {name: stream.generate for name, stream in streams.items()}
            for concurrency in arguments.concurrency:
                # Ids of plain words: the first ones of a vocabulary are special tokens.
                prompts = generator.integers(1000, 20000, (concurrency, PROMPT_TOKENS)).tolist()
                print(f"{title}, {concurrency} at once", flush=True)
                results, rows = measured(
                    contestants, streams, prompts, arguments.tokens, arguments.rounds
                )
                races[f"{title}, {concurrency} at once"] = results
                parts.append(
                    f"**{title}, {concurrency} at once, {PROMPT_TOKENS} tokens in, "
                    f"{arguments.tokens} out**\n\n{rows}"
                )
    arguments.out.mkdir(parents=True, exist_ok=True)
    save(arguments.out / "generate.json", races)
    plot(arguments.out / "generate.svg", races, "Atoll")
    report = "\n\n".join(parts) + "\n"
    (arguments.out / "generate.md").write_text(report)
    print(report)


if __name__ == "__main__":
    main()
