"""How servers and models' processes end: crashed, stopped, or with their launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from small_models import STREAM, StartServer, embed_code, infer, is_running, wait_until

from atoll.launcher import ServerOptions, ServerProcess
from atoll.launcher.stubs import find_stubs


def test_a_crashed_or_stopped_model_is_reloaded(
    start_server: StartServer, repository: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton keeps reporting a crashed stub as ready and never restarts it. To it, one that a
    signal has stopped is busy: its requests waited for ever."""
    monkeypatch.setattr("atoll.launcher.watchdog._STOPPED_S", 0.5)
    folder = repository(a=embed_code(), b=embed_code(value="2"))
    server = start_server(repository=folder, watch_interval_s=0.5)
    with pytest.raises(triton.InferenceServerException, match="not healthy"):
        infer(server, "a", b"die")
    assert infer(server, "b", b"x").tolist() == [[2.0] * 4]
    assert wait_until(lambda: server.num_reloads == 1, timeout_s=60)
    assert infer(server, "a", b"x").tolist() == [[1.0] * 4]
    stopped = next(stub for stub in find_stubs(server.pid) if stub.model == "b")
    os.kill(stopped.pid, signal.SIGSTOP)
    assert wait_until(lambda: server.num_reloads == 2, timeout_s=60)
    assert infer(server, "b", b"x").tolist() == [[2.0] * 4] and not stopped.is_running()


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.0, 1.0])
def test_a_process_that_is_stopped_while_it_loads(
    delay_s: float, repository: Callable[..., Path]
) -> None:
    """On a machine too busy to run it, too: Triton gave it up and waited for its end for ever,
    or ended itself."""
    code = "time.sleep(3)"
    folder = repository(a=embed_code(code).replace("import os", "import os, time"))
    options = ServerOptions.on_free_ports(repository=folder, exit_timeout_s=3, watch_interval_s=0.0)
    server = ServerProcess(options)
    server.start()
    try:
        assert wait_until(lambda: bool(find_stubs(server.pid)), timeout_s=60)
        (stub,) = find_stubs(server.pid)
        time.sleep(delay_s)
        os.kill(stub.pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(stub.pid, signal.SIGCONT)
        server.wait_ready()
        assert infer(server, "a", b"x").tolist() == [[1.0] * 4]
    finally:
        server.stop()


def test_a_model_that_fails_to_reload_is_tried_again(
    start_server: StartServer, repository: Callable[..., Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    code = f"assert not os.path.exists({str(broken)!r}), 'still broken'"
    server = start_server(repository=repository(a=embed_code(code)), watch_interval_s=0.5)
    broken.touch()
    with pytest.raises(triton.InferenceServerException):
        infer(server, "a", b"die")
    assert not wait_until(lambda: server.num_reloads > 0, timeout_s=3)
    broken.unlink()
    assert wait_until(lambda: server.num_reloads == 1, timeout_s=60)
    assert infer(server, "a", b"x").tolist() == [[1.0] * 4]


def test_an_open_stream_does_not_hold_the_server(
    start_server: StartServer, repository: Callable[..., Path]
) -> None:
    """Triton waits for it longer than its exit timeout; the launcher does not."""
    server = start_server(repository=repository(a=STREAM), exit_timeout_s=1)
    client = triton.InferenceServerClient(server.grpc_url)
    seen: list[Any] = []
    client.start_stream(lambda result, error: seen.append(result))
    tensor = triton.InferInput("text_input", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"forever"], dtype=object))
    client.async_stream_infer("a", [tensor])
    assert wait_until(lambda: len(seen) > 2, timeout_s=60)
    stopping = threading.Thread(target=server.stop, daemon=True)
    stopping.start()
    stopping.join(timeout=120)
    # The client is still there, and its answer has no end.
    assert not stopping.is_alive() and not server.is_running()
    client.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_when_its_launcher_dies(
    number: signal.Signals, repository: Callable[..., Path]
) -> None:
    """Also by kill -9, after which no code of the launcher runs."""
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from atoll.launcher import ServerOptions, ServerProcess\n"
        "options = ServerOptions.on_free_ports(repository=Path(sys.argv[1]), exit_timeout_s=1)\n"
        "with ServerProcess(options) as s:\n"
        "    print(s.pid, s.scratch, s.id, flush=True)\n"
        "    time.sleep(600)\n"
    )
    folder = repository(a=embed_code())
    launcher = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    pid, scratch, server_id = launcher.stdout.readline().split()
    family = [int(pid), *(p.pid for p in psutil.Process(int(pid)).children(recursive=True))]
    assert len(family) >= 2
    launcher.send_signal(number)
    launcher.wait(timeout=60)
    launcher.stdout.close()
    assert wait_until(lambda: not any(map(is_running, family)), timeout_s=60)
    assert wait_until(lambda: not Path(scratch).exists(), timeout_s=60)
    assert not [*Path("/dev/shm").glob(f"{server_id.replace('-', '_')}*")]


def test_stubs_of_a_server_that_died_are_ended_too(
    start_server: StartServer, repository: Callable[..., Path]
) -> None:
    server = start_server(repository=repository(a=embed_code()))
    stubs = [p.pid for p in psutil.Process(server.pid).children(recursive=True)]
    assert stubs
    # A stopped stub does not notice that its server is gone.
    for pid in stubs:
        os.kill(pid, signal.SIGSTOP)
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    server.stop()
    assert wait_until(lambda: not any(map(is_running, stubs)), timeout_s=60)
