"""What telling another rank costs a decoding step: ``python benchmarks/serving/ranks.py``.

A step of SmolLM2 on one rank, next to the message that a follower would get of it: its bytes, the
time for which it keeps rank 0 (making and sending it), and the time until another process has read
it and answered. Texts have 200 tokens, or as many as ``--length`` says.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))


import numpy as np
from harness.measure import call_times_ms, machine, markdown
from harness.models import GENERATOR_ID

from atoll.config import Settings
from atoll.runner.loader import load_runner
from atoll.runner.model_runner import ModelRunner
from atoll.runner.ranks.connection import Peer, accepted, connect, listen
from atoll.runner.ranks.messages import Alive, Bye, Step
from atoll.runner.step_input import StepInput, slots_of
from atoll.sampling.inputs import SamplingInput
from atoll.weights.files import resolve

KEY = b"of this benchmark alone"
REPETITIONS = 200


def decoding_step(rows: int, length: int, block_size: int) -> StepInput:
    """One new token for each of ``rows`` texts of ``length`` tokens, chosen greedily."""
    width = -(-length // block_size)
    tables = np.arange(rows * width, dtype=np.int32).reshape(1, rows, width)
    positions, every = np.full(rows, length - 1), np.arange(rows)
    return StepInput(
        token_ids=np.random.default_rng(0).integers(1000, 20000, rows),
        positions=positions,
        cu_seqlens=np.arange(rows + 1, dtype=np.int32),
        seq_lens=np.full(rows, length, np.int32),
        prompt_lens=np.full(rows, length // 2, np.int32),
        slots=slots_of(tables, every, positions, block_size),
        block_tables=tables,
        adapters=np.full(rows, -1, np.int32),
        sampled_tokens=every,
        sampling=SamplingInput(np.ones(rows, np.int64), np.empty(0, np.int64)),
    )


def answer(address: str) -> None:
    """The other process: reads steps as a follower does, and answers each."""
    peer = connect(address, KEY)
    while not isinstance(peer.receive(), Bye):
        peer.send(Alive())


def shown(times_us: Sequence[float]) -> str:
    """Best (median)."""
    return f"{min(times_us):.0f} ({np.median(times_us):.0f})"


def row_of(runner: ModelRunner, peer: Peer, rows: int, length: int) -> list[str]:
    """A line of the table."""
    step = decoding_step(rows, length, runner.block_size)
    message = Step(dataclasses.replace(step, sampling=None))
    num_bytes = len(message.step.to_bytes())

    def tell() -> None:
        peer.send(Step(dataclasses.replace(step, sampling=None)))

    sending, answering = [], []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        tell()
        sent = time.perf_counter()
        peer.receive()
        sending.append(1e6 * (sent - start))
        answering.append(1e6 * (time.perf_counter() - start))
    step_us = [1e3 * ms for ms in call_times_ms(lambda: runner.run(step), 40)]
    share = f"{100 * min(sending) / min(step_us):.2f}%"
    return [str(rows), str(num_bytes), shown(sending), shown(answering), shown(step_us), share]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.answer:
        answer(given.answer)
        return
    settings = Settings(
        model_id=GENERATOR_ID,
        dtype=given.dtype,
        max_batch_total_tokens=max(given.rows) * (given.length + 16),
    )
    runner = load_runner(settings, resolve(GENERATOR_ID)).runner
    with tempfile.TemporaryDirectory() as folder:
        address = str(Path(folder) / "leader")
        listening = listen(address)
        process = subprocess.Popen([sys.executable, __file__, f"--answer={address}"])
        peer = accepted(listening.accept()[0], KEY)
        rows = [row_of(runner, peer, count, given.length) for count in given.rows]
        peer.send(Bye())
        process.wait(10)
    print(f"{machine()}, {given.dtype}, texts of {given.length} tokens\n")
    titles = ("rows", "bytes", "sent, us", "answered, us", "step, us", "sent of a step")
    print(markdown(titles, rows))


if __name__ == "__main__":
    main()
