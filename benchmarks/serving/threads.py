"""How two models share the cores: ``python benchmarks/serving/threads.py`` prints a table.

SmolLM2 in int8 answers 8 streams through the server, alone and next to MiniLM under load, with
different numbers of engine threads, of tokenizer threads, and of iterations for which an idle
worker spins (libgomp's GOMP_SPINCOUNT). Each row is a server of its own; the rows do not take
turns, so differences of a few percent mean nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))


import numpy as np
from harness.measure import machine, markdown
from harness.models import EMBEDDER_ID, GENERATOR_ID
from harness.served import server_of, through_server
from harness.streams import Streams
from harness.texts import mixed_lengths, texts

from atoll.launcher import ServerProcess
from atoll.weights.files import resolve

STREAMS, TOKENS, TEXTS = 8, 64, 256
CORES = os.cpu_count() or 1
SPINS = ("100", "1000", "300000")


def served(spin: str, num_threads: int, tokenizers: int) -> ServerProcess:
    """A server with both models."""
    os.environ["GOMP_SPINCOUNT"] = spin
    both = {"dtype": "int8", "num_threads": str(num_threads)}
    return server_of(
        {
            "embedder": (resolve(EMBEDDER_ID), {**both, "tokenization_workers": str(tokenizers)}),
            "generator": (resolve(GENERATOR_ID), {**both, "prefix_caching": "false"}),
        }
    )


def rates(url: str, rounds: int) -> tuple[float, float, float, float]:
    """Tokens/s alone and next to the embedder, texts/s alone and next to the generator."""
    prompts = np.random.default_rng(0).integers(1000, 20000, (STREAMS, 64)).tolist()
    streams, documents = Streams(url, "generator"), texts(mixed_lengths(TEXTS, 3, 256))
    embed = through_server(url, "embedder")

    def generated() -> float:
        start = time.perf_counter()
        streams.generate(prompts, TOKENS)
        return STREAMS * TOKENS / (time.perf_counter() - start)

    def embedded() -> float:
        start = time.perf_counter()
        embed(documents)
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
    titles = (
        "iterations", "engine threads", "tokenizer threads", "tokens/s", "next to texts",
        "texts/s", "next to tokens",
    )  # fmt: skip
    rows = []
    for case in cases:
        with served(*case) as server:
            rows.append([*map(str, case), *(f"{r:.1f}" for r in rates(server.grpc_url, rounds))])
    print(markdown(titles, rows))


if __name__ == "__main__":
    main()
