"""How the cores are shared; ``python benchmarks/serving/threads.py`` prints it.

SmolLM2 in int8 answers 8 streams through the server, alone and beside MiniLM under load, with
other numbers of engine threads, of tokenizer threads, and of turns that a worker waits awake
(libgomp's GOMP_SPINCOUNT). Each row is a server of its own; the rows do not take turns, so only
differences well beyond a few percent mean anything.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path += [str(Path(__file__).resolve().parents[1] / folder) for folder in ("", "peers")]


import numpy as np
from generate import Streams
from harness.measure import machine
from harness.served import EMBEDDER, EMBEDDER_ID, GENERATOR_ID, embed_through_server
from harness.texts import mixed_lengths, texts

from atoll.catalogue import entry_for, read_model
from atoll.launcher import ServerOptions, ServerProcess
from atoll.weights.files import resolve

STREAMS, TOKENS, TEXTS = 8, 64, 256
CORES = os.cpu_count() or 1
SPINS = ("100", "1000", "300000")


@contextmanager
def served(spin: str, num_threads: int, tokenizers: int) -> Iterator[str]:
    """The gRPC address of a server with both models."""
    entries = []
    for name, model_id, settings in (
        (EMBEDDER, EMBEDDER_ID, {"dtype": "int8", "tokenization_workers": str(tokenizers)}),
        ("generator", GENERATOR_ID, {"dtype": "int8", "prefix_caching": "false"}),
    ):
        folder = resolve(model_id)
        entry = entry_for(str(folder), read_model(folder), name=name)
        threads = {"num_threads": str(num_threads)}
        entries.append(replace(entry, settings={**entry.settings, **settings, **threads}))
    os.environ["GOMP_SPINCOUNT"] = spin
    options = ServerOptions.on_free_ports(entries=tuple(entries), watch_interval_s=0)
    with ServerProcess(options) as server:
        yield server.grpc_url


def rates(url: str, rounds: int) -> tuple[float, float, float, float]:
    """Tokens/s alone and beside the embedder, texts/s alone and beside the generator."""
    prompts = np.random.default_rng(0).integers(1000, 20000, (STREAMS, 64)).tolist()
    streams, documents = Streams(url, "generator"), texts(mixed_lengths(TEXTS, 3, 256))
    embed = embed_through_server(url, documents)

    def generated() -> float:
        start = time.perf_counter()
        streams.generate(prompts, TOKENS)
        return STREAMS * TOKENS / (time.perf_counter() - start)

    def embedded() -> float:
        start = time.perf_counter()
        embed()
        return TEXTS / (time.perf_counter() - start)

    generated(), embedded()
    alone = [generated() for _ in range(rounds)], [embedded() for _ in range(rounds)]
    beside: list[float] = []
    stopping = threading.Event()

    def load() -> None:
        while not stopping.is_set():
            beside.append(embedded())

    thread = threading.Thread(target=load)
    thread.start()
    loaded = [generated() for _ in range(rounds)]
    stopping.set()
    thread.join()
    tokens, found = (statistics.median(values) for values in alone)
    return tokens, statistics.median(loaded), found, statistics.median(beside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    cases = [(spin, CORES, max(1, CORES // 2)) for spin in SPINS]
    cases += [("1000", max(1, CORES // 2), max(1, CORES // 2)), ("1000", CORES, CORES)]
    print(f"{machine()}\n")
    titles = ("turns awake", "engine threads", "tokenizer threads", "tokens/s", "beside texts")
    titles += ("texts/s", "beside tokens")
    print(f"| {' | '.join(titles)} |\n|{'-:|' * len(titles)}")
    for spin, num_threads, tokenizers in cases:
        with served(spin, num_threads, tokenizers) as url:
            cells = [f"{rate:.1f}" for rate in rates(url, rounds)]
        print(f"| {spin} | {num_threads} | {tokenizers} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
