"""Ranks of another machine: ``atoll worker`` at another address of this one."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from driving import save_llama
from engines import answers, engine
from long_requests import wait_until

from atoll import __version__
from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.launcher import free_ports
from atoll.runner.ranks import connection
from atoll.runner.ranks.messages import Failed, Hello
from atoll.serving.engine_loader import load_engine

KEY = "a key that machines share"
PROMPTS = [list(range(3, 30)), [5, 6, 7]]
ATOLL = Path(sys.executable).with_name("atoll")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("worker")
    save_llama(folder)
    return folder


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> list[list[int]]:
    with engine(checkpoint) as loaded:
        return answers(loaded, PROMPTS, 8)


@pytest.fixture(autouse=True)
def hangup() -> Iterator[None]:
    """Commands inherit it if these tests were started to survive their terminal (``nohup``)."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@contextmanager
def worker(
    log: Path, port: int, *arguments: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The command; what it says goes to ``log``. port: of rank 0, by which its ranks are known."""
    known = {**os.environ, connection.KEY: KEY, "OMP_NUM_THREADS": "1", **environment}
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(ATOLL), "worker", *arguments], env=known, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(30)
    assert num_ranks(port) == 0


def ranks(port: int) -> list[psutil.Process]:
    """Processes of ranks whose leader is at the port."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        for line in [" ".join(process.info["cmdline"] or ())]
        if "ranks.follower" in line and f":{port} " in line
    ]


def num_ranks(port: int) -> int:
    return len(ranks(port))


def test_a_model_on_two_machines(
    checkpoint: Path, expected: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is there first, and again when the model is loaded once more."""
    monkeypatch.setenv(connection.KEY, KEY)
    (port,) = free_ports(1)
    with worker(tmp_path / "log", port, f"--leader=127.0.0.2:{port}"):
        for _ in range(2):
            with engine(checkpoint, num_shard=2, num_nodes=2, shard_port=port) as loaded:
                assert answers(loaded, PROMPTS, 8) == expected


def test_a_frozen_rank_is_restarted(
    checkpoint: Path, expected: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model could not be loaded again until somebody woke it."""
    monkeypatch.setenv(connection.KEY, KEY)
    (port,) = free_ports(1)
    arguments = {"num_shard": 2, "num_nodes": 2, "shard_port": port, "shard_timeout_s": 5.0}
    with worker(tmp_path / "log", port, f"--leader=127.0.0.1:{port}", "--shard-timeout-s=5"):
        with engine(checkpoint, **arguments) as loaded:
            assert answers(loaded, PROMPTS, 8) == expected
            (frozen,) = ranks(port)
            frozen.suspend()
            wait_until(lambda: not frozen.is_running(), lambda: "the rank is not ended")
        with engine(checkpoint, **arguments) as loaded:
            assert answers(loaded, PROMPTS, 8) == expected


def test_ranks_of_a_group_of_pods(
    checkpoint: Path, expected: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is read from what LeaderWorkerSet and one configuration say; SIGTERM, which all
    pods get together, waits for rank 0."""
    monkeypatch.setenv(connection.KEY, KEY)
    (port,) = free_ports(1)
    environment = {
        "LWS_LEADER_ADDRESS": "127.0.0.1", "LWS_WORKER_INDEX": "1", "LWS_GROUP_SIZE": "2",
        "NUM_SHARD": "4", "ATOLL_SHARD_PORT": str(port),
    }  # fmt: skip
    settings = Settings.read({}, environment)
    assert (settings.num_shard, settings.num_nodes, settings.shard_port) == (4, 2, port)
    with worker(tmp_path / "log", port, **environment) as process:
        with engine(checkpoint, num_shard=4, num_nodes=2, shard_port=port) as loaded:
            assert num_ranks(port) == 2
            process.terminate()
            assert answers(loaded, PROMPTS, 8) == expected
        assert process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_worker_that_ends_leaves_no_rank(tmp_path: Path, number: signal.Signals) -> None:
    """Its ranks waited for rank 0 for ever, and the first SIGTERM had no effect, the only one that
    systemd, Docker and Kubernetes send."""
    (port,) = free_ports(1)
    log = tmp_path / "log"
    with worker(log, port, f"--leader=127.0.0.1:{port}") as process:
        wait_until(lambda: "waiting for rank 0" in log.read_text(), log.read_text)
        process.send_signal(number)
        assert process.wait(20) == (0 if number == signal.SIGTERM else -number)
        wait_until(lambda: num_ranks(port) == 0, lambda: "a rank is left")


def test_a_worker_that_is_killed_while_its_rank_starts(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with worker(tmp_path / "log", port, f"--leader=127.0.0.1:{port}") as process:
        wait_until(lambda: num_ranks(port) == 1, lambda: "no rank")
        process.kill()
        process.wait(10)
        wait_until(lambda: num_ranks(port) == 0, lambda: "a rank is left")


def test_silent_connections_delay_no_rank(
    checkpoint: Path, expected: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each took five seconds, after which the worker mistook the silence for another key."""
    monkeypatch.setenv(connection.KEY, KEY)
    (port,) = free_ports(1)
    found: list[list[list[int]]] = []

    def serve() -> None:
        with engine(checkpoint, num_shard=2, num_nodes=2, shard_port=port) as loaded:
            found.append(answers(loaded, PROMPTS, 8))

    serving = threading.Thread(target=serve)
    serving.start()
    with contextlib.ExitStack() as stack:

        def connected() -> bool:
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
                return True
            return False

        for _ in range(8):
            wait_until(connected, lambda: "rank 0 does not listen")
        with worker(tmp_path / "log", port, f"--leader=127.0.0.1:{port}"):
            serving.join(120)
    assert found == [expected]


def test_a_worker_with_another_key_is_refused(tmp_path: Path) -> None:
    found = connection.listen(("127.0.0.1", 0))
    port, log = found.getsockname()[1], tmp_path / "log"
    with worker(log, port, f"--leader=127.0.0.1:{port}", ATOLL_SHARD_KEY="x" * 20) as process:
        with pytest.raises(Exception, match="key"):
            connection.accepted(found.accept()[0], KEY.encode())
        assert process.wait(30) == 1
    assert "ATOLL_SHARD_KEY" in log.read_text()


def test_a_rank_that_is_not_expected_is_refused(tmp_path: Path) -> None:
    found = connection.listen(("127.0.0.1", 0))
    port, log = found.getsockname()[1], tmp_path / "log"
    with worker(log, port, f"--leader=127.0.0.1:{port}", "--rank=7") as process:
        peer = connection.accepted(found.accept()[0], KEY.encode())
        assert peer.receive() == Hello(7, __version__)
        peer.send(Failed("rank is 7"))
        assert process.wait(30) == 1
    assert "rank 0 refuses rank 7: rank is 7" in log.read_text()


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ((), {}, "no --leader was given"),
        (("--leader=x",), {"ATOLL_SHARD_KEY": "short"}, "ATOLL_SHARD_KEY has 5 characters"),
        (("--leader=x:y",), {}, "expected HOST:PORT"),
        (("--leader=x:70000",), {}, "'x:70000'; expected HOST:PORT, with a port up to 65535"),
        (("--leader=x",), {"NUM_SHARD": "3", "LWS_GROUP_SIZE": "2"}, "num_shard is 3"),
        (("--leader=x",), {"LWS_WORKER_INDEX": "0"}, "LWS_WORKER_INDEX is '0'"),
    ],
)
def test_what_a_worker_cannot_use_is_named(
    arguments: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    known = {**os.environ, connection.KEY: KEY, "COLUMNS": "200", **environment}
    done = subprocess.run(
        [str(ATOLL), "worker", *arguments], env=known, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and said in done.stderr, done.stderr


def test_a_port_that_cannot_be_is_named() -> None:
    with pytest.raises(ConfigError, match="shard_port is 70000; the most allowed is 65535"):
        Settings.read({"model_id": "x", "task": "generate", "shard_port": "70000"})


def test_machines_need_a_key(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(connection.KEY, raising=False)
    settings = Settings(model_id=str(checkpoint), num_shard=2, num_nodes=2)
    with pytest.raises(ConfigError, match="ATOLL_SHARD_KEY has 0 characters"):
        load_engine(settings, checkpoint)
