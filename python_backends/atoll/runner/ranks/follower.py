"""The process of a rank other than 0: carries out rank 0's messages, in their order.

Started by rank 0 and by ``atoll worker`` as ``python -m atoll.runner.ranks.follower``. It knows no
requests and decides nothing. Its output goes to the log of whatever started it.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import signal
import sys
import time
from pathlib import Path

import torch

from atoll import __version__
from atoll.config import Settings
from atoll.errors import AtollError, ConfigError, NotReady
from atoll.models.load_options import load_options
from atoll.models.registry import Checkpoint
from atoll.runner.load_model import LoadedModel, load_model
from atoll.runner.memory import SpareMemory
from atoll.runner.model_runner import ModelRunner
from atoll.runner.ranks import group, messages
from atoll.runner.ranks.connection import KEY, Address, Peer, connect, parse_address, shown
from atoll.runner.ranks.guard import Guard, Leader, leave
from atoll.runner.ranks.layout import RankLayout, settings_of_rank
from atoll.runner.ranks.messages import LOST, REFUSED, Message
from atoll.runner.states import StateSize, state_dtype
from atoll.sampling.sampler import Sampler
from atoll.sampling.watermark import Watermark
from atoll.weights.files import resolve

logger = logging.getLogger(__name__)

_RETRY_S = 0.5
_SAY_S = 30.0
_END_S = 2.0


class Follower:
    """One rank. local_rank: its number on its machine. host: that of rank 0, if not this one."""

    def __init__(self, peer: Peer, rank: int, local_rank: int, host: str | None) -> None:
        self._peer, self._rank, self._local_rank, self._host = peer, rank, local_rank, host
        self._settings = Settings()
        self._load = messages.Load({}, "", "", "cpu", 1, 1, "")
        self._folder = Path()
        self._model: LoadedModel | None = None
        self._runner: ModelRunner | None = None
        self._memory: SpareMemory | None = None

    def run(self) -> None:
        """Returns after ``Bye``.

        Raises:
            EOFError, OSError: rank 0 is gone. Any other error: a message could not be carried out.
        """
        while not isinstance(message := self._peer.receive(), messages.Bye):
            self.handle(message)
        group.leave()

    @torch.inference_mode()
    def handle(self, message: Message) -> None:
        """Carries out a message; most of them have no answer."""
        match message:
            case messages.Step(step):
                self._ready().compute(step)
            case messages.Load():
                self._prepare(message)
                self._peer.send(messages.Done())
            case messages.Join():
                self._join()
                self._peer.send(messages.Done())
            case messages.Cache():
                self._allocate(message)
            case messages.Measure():
                self._runner = None
                assert self._memory is not None
                self._peer.send(messages.Spare(self._memory.read()))
            case messages.Capture(max_batch_size):
                self._ready().buffer_decoding(max_batch_size)
            case messages.Reset():
                self._ready().reset()
            case messages.Failed(reason):
                raise ConfigError(f"rank 0 refuses rank {self._rank}: {reason}")
            case _:
                raise ConfigError(
                    f"rank 0 sent {type(message).__name__}, which is not for followers"
                )

    def _ready(self) -> ModelRunner:
        if self._runner is None:
            raise ConfigError("rank 0 sent a step before the cache")
        return self._runner

    def _prepare(self, load: messages.Load) -> None:
        """Checks everything that can be checked before the other ranks wait for this one."""
        layout = RankLayout(load.size, load.num_nodes, torch.device(load.device))
        given = Settings(**load.settings)
        self._load, self._settings = load, settings_of_rank(given, layout, self._local_rank)
        self._folder = Path(load.folder)
        if not self._folder.is_dir():
            self._folder = resolve(given.model_id, given.revision, given.huggingface_hub_cache)
        config = (self._folder / "config.json").read_bytes()
        if hashlib.sha256(config).hexdigest() != load.digest:
            raise ConfigError(f"{self._folder}/config.json differs from that of rank 0")
        load_options(self._settings, Checkpoint.open(self._folder).raw)

    def _join(self) -> None:
        load, settings = self._load, self._settings
        device, limit_s = torch.device(settings.device), settings.shard_timeout_s
        store = group.store_of(load.store, self._host, load.size, limit_s)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        is_local = load.num_nodes == 1
        group.join(store, self._rank, load.size, device, limit_s, is_local=is_local)
        self._model = load_model(settings, self._folder, self._rank, load.size)

    def _allocate(self, cache: messages.Cache) -> None:
        assert self._model is not None
        self._runner = None  # there may be no room for two caches
        model, options = self._model.model, self._model.options
        sampler = Sampler(Watermark(model.config.vocab_size, 0.5, 2.0))  # unused
        self._runner = ModelRunner(
            model, sampler, cache.num_blocks, cache.block_size, options.device, options.dtype,
            StateSize(cache.num_state_slots, dtype=state_dtype(self._settings)), self._load.size,
        )  # fmt: skip
        self._runner.adapters = self._model.adapters
        num_sharing = self._load.size // self._load.num_nodes
        self._memory = SpareMemory(options.device, num_sharing)


def connect_when_up(address: Address, key: bytes, *, waits: bool) -> Peer:
    """Connects to rank 0. waits: try again until it listens.

    Raises:
        NotReady: it has a different key. OSError: it does not listen.
    """
    said = 0.0
    while True:
        try:
            return connect(address, key)
        except OSError as error:
            if not waits:
                raise
            if time.monotonic() - said > _SAY_S:
                said = time.monotonic()
                logger.warning("waiting for rank 0 at %s: %s", shown(address), error)
            time.sleep(_RETRY_S)


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 after ``Bye``; otherwise, the process ends with LOST or REFUSED."""
    given = _parsed(arguments)
    logging.basicConfig(
        level=logging.WARNING, format=f"rank {given.rank}: %(levelname)s %(name)s: %(message)s"
    )
    leader = Leader(given.server, given.scratch) if given.scratch is not None else None
    # While a server stops, open requests may finish; rank 0 sends Bye after them. A rank of
    # another machine obeys SIGTERM until it is connected.
    _ignore(signal.SIGINT, signal.SIGHUP, *((signal.SIGTERM,) if leader else ()))
    address, key = parse_address(given.leader), os.environ.pop(KEY, "").encode()
    guard = Guard(given.parent, leader, given.alive_fd)
    guard.start()
    try:
        peer = connect_when_up(address, key, waits=leader is None)
    except (AtollError, OSError) as error:
        logger.error("%s", error)
        leave(leader, REFUSED if isinstance(error, NotReady) else LOST)
    _ignore(signal.SIGTERM)
    host = None if isinstance(address, str) else address[0]
    try:
        peer.send(messages.Hello(given.rank, __version__))
        guard.watch(peer)
        Follower(peer, given.rank, given.local_rank, host).run()
    except (EOFError, OSError):
        leave(leader)
    except Exception as error:
        guard.release()  # the exit status tells whether to try again
        # The error may follow from rank 0's end, after which nothing else removes its files.
        leave(leader, _told(peer, error))
    guard.release()
    return 0


def _ignore(*numbers: signal.Signals) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _told(peer: Peer, error: Exception) -> int:
    """Reports a failure to rank 0, which then ends all ranks and answers the open requests.

    Returns the exit status.
    """
    logger.exception("this rank cannot continue")
    try:
        peer.send(messages.Failed(f"{type(error).__name__}: {error}"))
        time.sleep(_END_S)  # rank 0 reads the message, and ends this process if it can
    except OSError:
        pass
    return REFUSED if isinstance(error, ConfigError) else LOST


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leader", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--local-rank", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--alive-fd", type=int)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--server", type=int)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # As in a stub: libraries would free their data while their threads still run.
    os._exit(status)
