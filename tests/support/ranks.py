"""Processes that stay alive and split one model after the other, and what they compute.

A process that fails or hangs fails the test that asked: all are ended, with what went wrong in the
message, and the next test gets new ones.
"""

from __future__ import annotations

import multiprocessing as mp
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from tiny.paged import PagedRunner

from atoll.layers.parallel import ONE_RANK, Shard
from atoll.models.families import DECODERS
from atoll.models.registry import Checkpoint, architecture, load_decoder
from atoll.runner.kv_cache import bytes_per_token
from atoll.runner.lora import attach_adapters
from atoll.weights.load import LoadOptions

Logits = dict[str, npt.NDArray[np.float32]]
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Job:
    """A checkpoint, and the texts that are run: in chunks, then token by token.

    inputs: an encoder-decoder's. features: in their place, of sounds. adapters: LoRA folders by
    name, of which ``adapter`` is used.
    """

    folder: Path
    texts: Mapping[str, Sequence[int]]
    inputs: Mapping[str, Sequence[int]] | None = None
    features: npt.NDArray[np.float32] | None = None
    scheme: str = "dense"
    dtype: torch.dtype = torch.float32
    adapters: Mapping[str, Path] | None = None


@dataclass(frozen=True)
class Result:
    """logits: of every token of every text. cache_bytes: of a token in the rank's KV cache.

    num_weights: of the rank's layers.
    """

    logits: Logits
    cache_bytes: int
    num_weights: int


def compute(job: Job, shard: Shard = ONE_RANK) -> Result:
    """What a job gives on one rank; all ranks compute it together."""
    options = LoadOptions(job.dtype, scheme=job.scheme, shard=shard)
    checkpoint = Checkpoint.open(job.folder)
    model: Any = load_decoder(checkpoint, options)
    adapters = job.adapters or {}
    if adapters:
        tables = architecture(checkpoint.raw, DECODERS).WEIGHTS
        slots = attach_adapters(model, tables, job.folder, adapters, job.dtype)
        slots.rows = {name: None for name in adapters}
    runner = PagedRunner(model, dtype=job.dtype)
    if job.inputs is not None:
        features = None if job.features is None else torch.from_numpy(job.features)
        runner.encode(job.inputs, features)
    logits: dict[str, list[torch.Tensor]] = {name: [] for name in job.texts}
    for start, stop in ((0, 5), (5, 12), (12, 13), (13, 14)):
        chunks = {name: ids[start:stop] for name, ids in job.texts.items() if ids[start:stop]}
        for name, rows in runner.step(chunks).items():
            logits[name].append(rows)
    found = {name: torch.cat(rows).numpy() for name, rows in logits.items()}
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    return Result(found, bytes_per_token(model.cache_specs(), job.dtype), num_weights)


class Ranks:
    """``run`` computes a job on so many processes, which are started when they are first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[tuple[mp.process.BaseProcess, Connection]] = []
        self._num_groups = 0

    def run(self, job: Job, size: int) -> list[Result]:
        """The result of every rank.

        Raises:
            RuntimeError: a rank failed, with its traceback, or gave no answer in time.
        """
        while len(self._children) < size:
            self._children.append(_start())
        self._num_groups += 1
        store = self._folder / f"group{self._num_groups}"
        members = self._children[:size]
        for rank, (_, pipe) in enumerate(members):
            pipe.send((job, Shard(rank, size), store))
        try:
            return self._answers(members)
        except BaseException:
            self.close()
            raise

    def _answers(
        self, members: Sequence[tuple[mp.process.BaseProcess, Connection]]
    ) -> list[Result]:
        answers: dict[int, Result] = {}
        end = time.monotonic() + TIMEOUT_S
        while len(answers) < len(members):
            waiting = {r: pipe for r, (_, pipe) in enumerate(members) if r not in answers}
            ready = mp.connection.wait(list(waiting.values()), max(end - time.monotonic(), 0))
            if not ready:
                raise RuntimeError(f"no answer of the ranks {sorted(waiting)} in {TIMEOUT_S} s")
            for rank, pipe in waiting.items():
                if pipe in ready:
                    try:
                        answers[rank] = pipe.recv()
                    except EOFError as error:
                        raise RuntimeError(f"rank {rank} has ended") from error
                    if isinstance(answers[rank], str):
                        raise RuntimeError(f"rank {rank} failed:\n{answers[rank]}")
        return [answers[rank] for rank in sorted(answers)]

    def close(self) -> None:
        """Ends the processes."""
        for process, pipe in self._children:
            process.kill()
            process.join()
            pipe.close()
        self._children = []


def _start() -> tuple[mp.process.BaseProcess, Connection]:
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _serve(pipe: Connection) -> None:
    """The life of a rank: jobs until the pipe ends."""
    torch.set_num_threads(1)
    while True:
        try:
            job, shard, store = pipe.recv()
        except EOFError:
            return
        try:
            dist.init_process_group(
                "gloo", store=dist.FileStore(str(store), shard.size), rank=shard.rank,
                world_size=shard.size,
            )  # fmt: skip
            pipe.send(compute(job, shard))
            dist.destroy_process_group()
        except Exception:
            pipe.send(traceback.format_exc())
