"""A Llama behind tritonserver on a GPU."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from gpu_measure import Bench, Row


def serving(bench: Bench) -> Iterator[Row]:
    """Rows: model, dtype, concurrency, tokens_per_s, first_token_ms, per_token_ms."""
    missing = [p for p in ("tritonclient", "transformers") if importlib.util.find_spec(p) is None]
    if missing:
        yield {"model": "a Llama, served", "skipped": f"{', '.join(missing)} not installed"}
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield from _served(bench, Path(scratch))


def _served(bench: Bench, scratch: Path) -> Iterator[Row]:
    from harness.served import DTYPES, server_of
    from harness.streams import Streams

    name, dtype = bench.choose(("Llama 1.1B", "bf16"), ("tiny Llama", "fp32"))
    folder = _tiny_llama(scratch) if bench.is_dry else _llama(scratch, bench.device)
    length, new_tokens = bench.choose((64, 64), (8, 4))
    settings = {"dtype": DTYPES[dtype], "prefix_caching": "false"}
    with server_of({dtype: (folder, settings)}) as server:
        for concurrency in bench.choose((1, 32, 128), (2,)):
            streams = Streams(server.grpc_url, dtype)
            prompts = torch.randint(3, bench.choose(20000, 96), (concurrency, length)).tolist()
            streams.generate(prompts, new_tokens)
            streams.times.first.clear()
            streams.times.between.clear()
            start = time.perf_counter()
            answers = streams.generate(prompts, new_tokens)
            seconds = time.perf_counter() - start
            yield {
                "model": f"{name}, served", "dtype": dtype, "concurrency": concurrency,
                "tokens_per_s": sum(map(len, answers)) / seconds,
                "first_token_ms": 1e3 * statistics.median(streams.times.first),
                "per_token_ms": 1e3 * statistics.median(streams.times.between),
            }  # fmt: skip


def _llama(folder: Path, device: torch.device) -> Path:
    """TinyLlama's sizes with random weights, and a vocabulary of numbers."""
    from harness.models import save_random_llama
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    save_random_llama(folder, 32000, device)
    tokenizer = Tokenizer(WordLevel({str(i): i for i in range(32000)}, unk_token="0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _tiny_llama(folder: Path) -> Path:
    from driving import save_llama
    from tiny.tokenizer import write_tokenizer

    save_llama(folder)
    write_tokenizer(folder)
    return folder
