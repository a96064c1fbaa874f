"""Parts of the launcher that need no server."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from atoll.catalogue import Entry, ServedModel, write_repository
from atoll.catalogue.pipelines import hybrid_search
from atoll.errors import ConfigError, NotReady
from atoll.launcher.installation import find_installation
from atoll.launcher.logs import LogPump
from atoll.launcher.options import ServerOptions
from atoll.launcher.repositories import prepare
from atoll.launcher.stubs import Stub
from atoll.launcher.supervisor import Supervisor
from atoll.launcher.watchdog import Watchdog
from atoll.logs import LogOptions

HEAD = "1123 08:59:31.753471 9306 model_lifecycle.cc:642]"
LINES = [
    f'I{HEAD} "loading: bad:1"',
    "a model prints",
    f'W{HEAD} "a warning"',
    f"E{HEAD} \"failed to load 'bad' version 1: Internal: "
    'ValueError: \\"x\\": 1\\nmore\\n\\nAt:\\n  /a/model.py(3): initialize\\n"',
    f"E{HEAD} failed to load 'old' version 2: Unavailable: gone",
    f'E{HEAD} "something else is wrong"',
    "+-------+",
    "| bad   | UNAVAILABLE",
    "At:",
    "  /a/model.py(3): initialize",
    "",
    "error: creating server: Internal - failed to load all models",
]


def pump(
    path: Path, verbose: bool = False, lines: Sequence[str] = LINES, **options: str
) -> tuple[LogPump, list[str]]:
    shown: list[str] = []
    stream = io.StringIO("".join(f"{line}\n" for line in lines))
    log = LogPump(stream, path, shown.append, verbose, options=LogOptions(**options))  # type: ignore[arg-type]
    log.join(timeout_s=60)
    return log, shown


def test_why_models_failed_is_read_from_the_log(tmp_path: Path) -> None:
    """Newer servers quote their messages, older ones do not."""
    log, _ = pump(tmp_path / "log", verbose=False)
    assert log.failures == {"bad": 'ValueError: "x": 1\nmore', "old": "gone"}
    assert (tmp_path / "log").read_text().splitlines() == LINES
    assert log.tail(2).splitlines() == [LINES[9], LINES[11]]


def test_only_what_matters_is_shown(tmp_path: Path) -> None:
    assert pump(tmp_path / "log", verbose=False)[1] == ["a model prints", LINES[2], LINES[5]]
    assert pump(tmp_path / "log", verbose=True)[1] == LINES


def test_every_line_becomes_an_object(tmp_path: Path) -> None:
    """A model's own are objects already."""
    own = '{"time": "now", "level": "info", "message": "of a model"}'
    lines = [*LINES, own]
    log, shown = pump(tmp_path / "log", lines=lines, log_format="json", log_level="info")
    written = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(written) == len([line for line in LINES if line]) + 1
    assert written[-1] == json.loads(own) and own in shown
    assert log.failures.keys() == {"bad", "old"}, "by Triton's lines, whatever the format"
    assert {one["level"] for one in written} >= {"info", "error"}
    triton = [one for one in written[:-1] if "place" in one]
    assert triton and all(one["logger"] == "triton" and one["message"] for one in triton)


@pytest.mark.parametrize(("level", "count"), [("error", 1), ("warning", 2), ("info", 3)])
def test_lines_of_a_level_are_shown(level: str, count: int, tmp_path: Path) -> None:
    lines = [f'{letter}1123 08:59:01.1 7 a.cc:1] "x"' for letter in "IWE"]
    assert pump(tmp_path / "log", lines=lines, log_level=level)[1] == lines[3 - count :]


def test_a_server_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="not there or cannot be executed"):
        find_installation(str(tmp_path / "tritonserver"))
    binary = tmp_path / "root" / "bin" / "tritonserver"
    binary.parent.mkdir(parents=True)
    binary.touch(mode=0o755)
    with pytest.raises(ConfigError, match=r"libtriton_python\.so is missing"):
        find_installation(str(binary))
    backend = tmp_path / "root" / "backends" / "python" / "libtriton_python.so"
    backend.parent.mkdir(parents=True)
    backend.touch()
    with pytest.raises(ConfigError, match="no Python backend stub"):
        find_installation(str(binary))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install nvidia-pytriton==0\.7\.0"):
        find_installation()


@pytest.mark.parametrize(
    ("error", "is_reloaded"),
    [
        ("Stub process 'm_0_0' is not healthy.", True),
        # After an illegal access every later call of the process fails in the same way.
        ("the forward failed: AcceleratorError: CUDA error: an illegal memory access", True),
        ("the generation step failed: AcceleratorError: HIP error: invalid device", True),
        ("the forward failed: RuntimeError: Triton Error [CUDA]: an illegal memory access", True),
        # This one passes.
        ("the forward failed: OutOfMemoryError: CUDA out of memory. Tried to allocate", False),
        ("512 requests are held; max_concurrent_requests is 512", False),
    ],
)
def test_what_only_a_reload_mends(error: str, is_reloaded: bool) -> None:
    """A GPU's error left the model answering nothing but errors until someone restarted it."""
    model = ServedModel("m", "embed")
    probe: Any = Mock()
    probe.check.side_effect = NotReady(f"model 'm': {error}")
    watchdog = Watchdog(probe, [model], os.getpid(), 1.0, 5.0)
    watchdog._check(model)
    assert watchdog.num_reloads == int(is_reloaded) == probe.load.call_count


def test_a_process_that_ends_as_soon_as_it_is_loaded_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first look after a reload found none, and took that for how it should be."""
    running = [Stub(1, "m", 0.0), Stub(2, "other", 0.0)]
    monkeypatch.setattr("atoll.launcher.watchdog.find_stubs", lambda server: list(running))
    monkeypatch.setattr(Stub, "is_running", lambda self: True)
    monkeypatch.setattr("atoll.launcher.watchdog._LOOK_S", 0.01)
    probe: Any = Mock()
    models = [ServedModel("m", "embed"), ServedModel("other", "embed")]
    # Two loads whose process ends at once, then one beside a process that is still to end.
    loads = iter([[], [], [Stub(5, "m", 0.0), Stub(6, "m", 0.0)]])
    is_back = threading.Event()

    def load(name: str, timeout_s: float) -> None:
        assert name == "m"
        running[:] = [stub for stub in running if stub.model != name] + next(loads)
        if len(running) == 3:
            is_back.set()

    probe.load.side_effect = load
    watchdog = Watchdog(probe, models, os.getpid(), 60.0, 5.0)
    watchdog.start()
    del running[0]
    assert is_back.wait(10)
    running.pop()
    watchdog._stopped.wait(0.2)
    watchdog.stop()
    assert probe.load.call_count == watchdog.num_reloads == 3


def test_a_server_that_has_closed_its_ports_and_hangs_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Triton hung in its own end after a SIGTERM, and was waited for without limit."""
    monkeypatch.setattr("atoll.launcher.watchdog._DEAF_S", 0.0)
    probe: Any = Mock()
    with subprocess.Popen(["sleep", "60"]) as server:
        watchdog = Watchdog(probe, [model := ServedModel("m", "embed")], server.pid, 1.0, 5.0)
        probe.check.side_effect = NotReady("model 'm': Deadline Exceeded")
        watchdog._check(model)
        assert server.poll() is None
        probe.check.side_effect = NotReady("model 'm': failed to connect: Connection refused")
        watchdog._check(model)
        assert server.wait(timeout=10) == -signal.SIGKILL


class _Enough(Exception):
    """Ends a supervisor, which does not end by itself."""


def test_a_server_is_started_again_for_ever_and_later_each_time() -> None:
    """Also if the start itself fails; it gave up after three crashes."""
    process: Any = Mock()
    process.wait.return_value = -signal.SIGSEGV
    process.log_tail.return_value = "Signal (11) received"
    process.startup_s = 1.0
    process.restart.side_effect = [None, NotReady("port in use"), *[None] * 9, _Enough]
    said: list[str] = []
    pauses: list[float] = []
    with pytest.raises(_Enough):
        Supervisor(process, list, said.append, pauses.append).run()
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]
    assert any("was ended by SIGSEGV" in line for line in said) and "port in use" in said


def test_a_server_that_was_ended_for_a_model_is_started_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each time: it waited up to a minute after the sixth process of a model that had ended."""
    process: Any = Mock()
    process.startup_s = 1.0
    process.wait.side_effect = lambda: process.on_crash("model")
    process.restart.side_effect = [None, None, NotReady("busy"), None, _Enough]
    monkeypatch.setattr(Supervisor, "_is_connected_to_others", lambda self: True)
    pauses: list[float] = []
    with pytest.raises(_Enough):
        Supervisor(process, list, lambda line: None, pauses.append).run()
    assert pauses == [0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ({"embedder": "multi_vector"}, "search: embedder is 'multi_vector', which is for multi_v"),
        ({"sparse_embedder": "embed"}, "sparse_embedder is 'embed', .*; expected sparse"),
        ({"reranker": "classify"}, "reranker is 'classify', .*; expected rerank or multi_vector"),
        ({"embedder": "embed", "reranker": "other"}, "which is for embed, then rerank; expected"),
        ({"sparse_embedder": "three", "reranker": "multi_vector"}, None),
        ({"embedder": "somewhere"}, None),
    ],
)
def test_pipelines_of_the_wrong_models_are_refused(
    tmp_path: Path, links: dict[str, str], message: str | None
) -> None:
    dims = {"embedding": 8, "labels": 2}
    tasks = ("embed", "rerank", "classify", "multi_vector")
    entries = [
        Entry(name, "a/b", task, "bert", dims={**dims, **({"sparse_linear": 1} if heads else {})})
        for name, task, heads in (*((t, t, False) for t in tasks), ("three", "embed", True))
    ]
    other = hybrid_search("other", "embed", reranker="rerank")
    write_repository([*entries, other, hybrid_search("search", **links)], tmp_path)
    options = ServerOptions.on_free_ports(repository=tmp_path)
    if message is None:
        assert {"search", "other"} < {model.name for model in prepare(options, tmp_path)[1]}
        return
    with pytest.raises(ConfigError, match=message):
        prepare(options, tmp_path)
