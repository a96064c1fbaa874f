"""Rank 0 and real followers: whatever happens to one of them, requests end and nothing is left."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from driving import Collector, request, save_llama
from engines import answers, engine

from atoll.config import Settings
from atoll.errors import ConfigError, NotReady
from atoll.runner.model_runner import ModelRunner
from atoll.runner.ranks import gathering, group
from atoll.runner.ranks.messages import Capture
from atoll.runner.ranks.team import Team
from atoll.serving.engine_loader import LoadedEngine, load_engine

TIMEOUT_S = 3.0
LONG = 100_000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("team")
    save_llama(folder, max_position_embeddings=2 * LONG)
    return folder


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where folders of ranks would be left, and a check that nothing is."""
    monkeypatch.setenv("ATOLL_SCRATCH", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []
    assert not followers()
    assert not dist.is_initialized()


def followers() -> list[psutil.Process]:
    """Running ranks of this process."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if any("ranks.follower" in word for word in child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return [child for child in found if child.status() != psutil.STATUS_ZOMBIE]


class Lost:
    """What is called when a rank is lost."""

    def __init__(self) -> None:
        self.errors: list[NotReady] = []
        self.told = threading.Event()

    def __call__(self, error: NotReady) -> None:
        self.errors.append(error)
        self.told.set()


@pytest.fixture
def loaded(checkpoint: Path) -> Iterator[LoadedEngine]:
    """An engine on two ranks, with room for an endless answer."""
    settings = {"num_shard": 2, "max_batch_total_tokens": LONG, "shard_timeout_s": TIMEOUT_S}
    with engine(checkpoint, **settings) as found:
        yield found


def running(loaded: LoadedEngine) -> Collector:
    """A request that is being answered."""
    made, sink = request([5, 6, 7], LONG - 10)
    loaded.engine.submit(made)
    deadline = time.monotonic() + 60
    while len(sink.tokens) < 5:
        assert time.monotonic() < deadline and sink.error is None
        time.sleep(0.01)
    return sink


def team_of(loaded: LoadedEngine) -> Team:
    found: Any = loaded.engine
    team: Team = found._core._runner._team
    return team


def kill(loaded: LoadedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    followers()[0].send_signal(signal.SIGKILL)


def stop(loaded: LoadedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    followers()[0].send_signal(signal.SIGSTOP)


def fail_there(loaded: LoadedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception on the follower: it is asked for what it cannot do."""
    (link,) = team_of(loaded)._gathering.links.values()
    link.peer.send(Capture(-3))


def fail_here(loaded: LoadedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: ModelRunner, step: Any) -> Any:
        raise torch.OutOfMemoryError("no memory is left")

    monkeypatch.setattr(ModelRunner, "forward", forward)


ENDS: dict[str, tuple[Callable[..., None], str]] = {
    "killed": (kill, r"rank 1 \(process \d+\) was ended by signal 9 \(SIGKILL\)"),
    "stalled": (stop, r"rank 1 .* has not answered for 3 s \(shard_timeout_s\)"),
    "failed": (fail_there, r"rank 1 .* failed: "),
    "failed at rank 0": (fail_here, "rank 0 failed: OutOfMemoryError: no memory is left"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_rank_that_is_lost_ends_all(
    loaded: LoadedEngine, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, (bring_about, reason) = Lost(), ENDS[end]
    loaded.engine.watch(lost)
    sink = running(loaded)
    bring_about(loaded, monkeypatch)
    assert lost.told.wait(30) and sink.ended.wait(30)
    (error,) = lost.errors
    assert re.search(reason, str(error)), error
    assert isinstance(sink.error, NotReady)
    loaded.engine.give_up(str(error))
    with pytest.raises(NotReady, match="not healthy"):
        loaded.engine.submit(request([5], 4)[0])


def test_an_idle_rank_that_is_killed_is_noticed(loaded: LoadedEngine) -> None:
    """Also before anybody listens: a model may still be about to serve."""
    followers()[0].kill()
    lost = Lost()
    time.sleep(0.5)
    loaded.engine.watch(lost)
    assert lost.told.wait(30)


def test_a_step_whose_sampling_fails_costs_no_rank(
    loaded: LoadedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 alone chooses tokens; the cache starts over on all ranks."""
    before = answers(loaded, [[5, 6, 7]], 8)
    runner: Any = loaded.engine
    sampler = runner._core._runner._sampler
    monkeypatch.setattr(sampler, "sample", lambda *_: 1 / 0)
    made, sink = request([5, 6, 7], 8)
    loaded.engine.submit(made)
    assert sink.ended.wait(30) and "ZeroDivisionError" in str(sink.error)
    monkeypatch.undo()
    assert answers(loaded, [[5, 6, 7]], 8) == before


def test_beams_copy_blocks_on_every_rank(loaded: LoadedEngine, checkpoint: Path) -> None:
    def search(at: LoadedEngine) -> list[list[int]]:
        sinks = [Collector() for _ in range(3)]
        made, _ = request([5, 6, 7], 12, sink=sinks[0], num_beams=3)
        at.engine.submit(replace(made, other_sinks=tuple(sinks[1:])))
        assert all(sink.ended.wait(30) and sink.error is None for sink in sinks)
        return [sink.ids for sink in sinks]

    with engine(checkpoint, max_batch_total_tokens=LONG) as alone:
        assert search(loaded) == search(alone)


def test_a_checkpoint_that_cannot_be_split_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    """The model's own error, and no process is left."""
    settings = Settings(model_id=str(checkpoint), num_shard=2, quantize="gptq")
    with pytest.raises(ConfigError, match="not quantised"):
        load_engine(settings, checkpoint)


def test_a_rank_that_ends_while_it_loads(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(NotReady, match=r"rank 1 has ended with status 1 before it was ready"):
        load_engine(Settings(model_id=str(checkpoint), num_shard=2), checkpoint)


def test_a_rank_that_does_not_connect(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 waited for it without end."""
    monkeypatch.setattr(gathering, "_START_S", 0.1)
    monkeypatch.setattr(gathering.LocalFollower, "end", no_end(gathering.LocalFollower.end))
    with pytest.raises(NotReady, match=r"rank 1 \(process \d+\) has not connected within 1 s"):
        load_engine(Settings(model_id=str(checkpoint), num_shard=2, shard_timeout_s=1), checkpoint)


def no_end(end: Callable[..., str | None]) -> Callable[..., str | None]:
    """Stops (SIGSTOP) a process before it is asked how it has ended."""

    def found(process: Any, within_s: float) -> str | None:
        if within_s == 0:
            psutil.Process(process.pid).suspend()
        return end(process, within_s)

    return found


def test_ports_of_one_machine_are_on_loopback(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gloo took the address of the machine's name, NCCL that of its first network."""
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    asked: list[list[str | None]] = []
    joining = dist.init_process_group

    def join(*arguments: Any, **options: Any) -> None:
        asked.append([os.environ.get(name) for name in names])
        joining(*arguments, **options)

    monkeypatch.setattr(dist, "init_process_group", join)
    before = listening_at(psutil.Process())
    with engine(checkpoint, num_shard=2):
        family = [psutil.Process(), *followers()]
        found = set.union(*map(listening_at, family)) - before
    assert asked == [["lo", "lo"]] and not any(name in os.environ for name in names)
    assert found and {address for address, _ in found} <= {"127.0.0.1", "::1"}


def listening_at(process: psutil.Process) -> set[tuple[str, int]]:
    """Addresses and ports."""
    found = process.net_connections("tcp")
    return {tuple(x.laddr) for x in found if x.status == psutil.CONN_LISTEN}


def test_files_of_nccl_are_removed(tmp_path: Path) -> None:
    import mmap

    path = Path("/dev/shm/nccl-atoll-test")
    path.write_bytes(bytes(4096))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        group.remove_shared_memory()
    assert not path.exists()
