"""The launcher with models that do as little as possible, and with ones that misbehave."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton

from atoll.catalogue import Entry, render
from atoll.errors import ConfigError, NotReady
from atoll.launcher import ServerOptions, ServerProcess, free_ports
from atoll.launcher.installation import find_installation
from atoll.launcher.stubs import find_stubs

StartServer = Callable[..., ServerProcess]

EMBED = """
import os
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        {initialize}

    def execute(self, requests):
        return [self.answer(r) for r in requests]

    def answer(self, request):
        texts = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()
        if texts.reshape(-1)[0] == b"die":
            os._exit(1)
        value = {value}
        return pb_utils.InferenceResponse([
            pb_utils.Tensor("embedding", np.full((len(texts), 4), value, np.float32)),
            pb_utils.Tensor("num_input_tokens", np.ones((len(texts), 1), np.uint32)),
        ])
"""
STREAM = """
import threading
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            threading.Thread(target=self.answer, args=(request, sender), daemon=True).start()

    def answer(self, request, sender):
        text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy().reshape(-1)[0]
        while True:
            token = pb_utils.Tensor("text_output", np.array([b"x"], dtype=object))
            is_last = text != b"forever"
            flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if is_last else 0
            sender.send(pb_utils.InferenceResponse([token]), flags)
            if is_last:
                return
            time.sleep(0.05)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., Path]:
    """A repository whose entries have our tensors and the code given by name."""

    def write(**models: str) -> Path:
        for name, code in models.items():
            task = "generate" if code == STREAM else "embed"
            entry = Entry(name, "x", task, "bert", dims={"embedding": 4})
            folder = tmp_path / "models" / name
            (folder / "1").mkdir(parents=True)
            config = render(entry)["config.pbtxt"]
            # No model_id: there is no checkpoint to fetch.
            (folder / "config.pbtxt").write_text(config[: config.index("\nparameters {")])
            (folder / "1" / "model.py").write_text(code)
        return tmp_path / "models"

    return write


def embed_code(initialize: str = "pass", value: str = "1") -> str:
    return EMBED.format(initialize=initialize, value=value)


def infer(server: ServerProcess, model: str, text: bytes) -> np.ndarray[Any, Any]:
    tensor = triton.InferInput("text_input", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text]], dtype=object))
    client = triton.InferenceServerClient(server.grpc_url)
    try:
        result: np.ndarray[Any, Any] = client.infer(model, [tensor]).as_numpy("embedding")
        return result
    finally:
        client.close()


def post(url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=b"{}", headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def wait_until(done: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not done() and time.monotonic() < deadline:
        time.sleep(0.05)
    return done()


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_models_answer_when_the_server_is_ready(
    start_server: StartServer, repository: Callable[..., Path]
) -> None:
    server = start_server(repository=repository(a=embed_code(), b=embed_code(value="2"), c=STREAM))
    assert {m.name: m.task for m in server.models} == {"a": "embed", "b": "embed", "c": "generate"}
    assert infer(server, "a", b"x").tolist() == [[1.0] * 4]
    assert infer(server, "b", b"x").tolist() == [[2.0] * 4]
    assert 0 < server.startup_s < 60
    with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
        assert b"nv_inference_request_success" in response.read()


def test_the_stub_runs_this_python_in_the_scratch_folder(
    start_server: StartServer, repository: Callable[..., Path], tmp_path: Path
) -> None:
    """A working directory with packages would put them first on the stub's sys.path."""
    out = tmp_path / "out.json"
    code = (
        "import json, sys; json.dump([sys.prefix, sys.version, os.getcwd()], "
        f"open({str(out)!r}, 'w'))"
    )
    server = start_server(repository=repository(a=embed_code(initialize=code)))
    assert json.loads(out.read_text()) == [sys.prefix, sys.version, str(server.scratch)]


def test_the_public_may_not_manage_models(
    start_server: StartServer, repository: Callable[..., Path]
) -> None:
    server = start_server(repository=repository(a=embed_code()))
    for path in (
        "repository/index", "repository/models/a/unload", "logging", "trace/setting",
        "systemsharedmemory/region/x/register",
    ):  # fmt: skip
        status, body = post(f"{server.http_url}/v2/{path}")
        assert status in (403, 405), (path, status, body)
    client = triton.InferenceServerClient(server.grpc_url)
    with pytest.raises(triton.InferenceServerException, match="restricted"):
        client.unload_model("a")
    # What perf_analyzer reads stays open.
    assert client.get_model_config("a").config.name == "a"
    client.close()
    status, body = post(f"{server.http_url}/v2/repository/index", server.admin_headers)
    assert status == 200 and json.loads(body)[0]["name"] == "a"
    # Every user of the machine can read it, and the key was in it.
    seen = Path(f"/proc/{server.pid}/cmdline").read_text()
    assert "--http-restricted-api=" in seen
    assert not any(key in seen for key in server.admin_headers.values())


def test_chosen_entries_only(start_server: StartServer, repository: Callable[..., Path]) -> None:
    folder = repository(a=embed_code(), b=embed_code("raise RuntimeError('not me')"))
    server = start_server(repository=folder, names=("a",))
    assert [m.name for m in server.models] == ["a"]
    with pytest.raises(ConfigError, match="no model zzz"):
        start_server(repository=folder, names=("a", "zzz"))


def test_a_model_that_fails_to_load_says_why_at_once(
    start_server: StartServer, repository: Callable[..., Path]
) -> None:
    failing = embed_code('raise RuntimeError("no \\"weights\\" in: /x\\nsecond line")')
    folder = repository(good=embed_code(), bad=failing)
    started = time.monotonic()
    with pytest.raises(NotReady) as caught:
        start_server(repository=folder)
    assert str(caught.value) == (
        "model 'bad' failed to load: RuntimeError: no \"weights\" in: /x\nsecond line"
    )
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("value", "message"),
    [("float('nan')", "embedding is not finite"), ("texts.no_such_thing", "no_such_thing")],
)
def test_a_model_that_loads_but_cannot_answer_is_not_ready(
    value: str, message: str, start_server: StartServer, repository: Callable[..., Path]
) -> None:
    with pytest.raises(NotReady, match=f"(?s)model 'a'.*{message}"):
        start_server(repository=repository(a=embed_code(value=value)))


def test_a_crashed_model_is_reloaded(
    start_server: StartServer, repository: Callable[..., Path]
) -> None:
    """Triton keeps reporting a crashed stub as ready and never restarts it."""
    folder = repository(a=embed_code(), b=embed_code(value="2"))
    server = start_server(repository=folder, watch_interval_s=0.5)
    with pytest.raises(triton.InferenceServerException, match="not healthy"):
        infer(server, "a", b"die")
    assert infer(server, "b", b"x").tolist() == [[2.0] * 4]
    assert wait_until(lambda: server.num_reloads == 1, timeout_s=30)
    assert infer(server, "a", b"x").tolist() == [[1.0] * 4]


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
        assert wait_until(lambda: bool(find_stubs(server.pid)), timeout_s=30)
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
    assert wait_until(lambda: server.num_reloads == 1, timeout_s=30)
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
    assert wait_until(lambda: len(seen) > 2, timeout_s=10)
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < 10
    client.close()


def test_two_servers_live_side_by_side(
    start_server: StartServer, repository: Callable[..., Path]
) -> None:
    folder = repository(a=embed_code())
    first, second = start_server(repository=folder), start_server(repository=folder)
    first.stop()
    assert infer(second, "a", b"x").tolist() == [[1.0] * 4]


@pytest.mark.parametrize("name", ["http_port", "grpc_port", "metrics_port"])
def test_a_port_in_use_is_named_before_anything_starts(
    name: str, repository: Callable[..., Path]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = ServerOptions.on_free_ports(repository=repository(a=embed_code()))
        process = ServerProcess(ServerOptions(**{**vars(options), name: port}))
        flag = f"--{name.replace('_', '-')}"
        with pytest.raises(ConfigError, match=f"port {port} .* in use.*{flag}"), process:
            raise AssertionError("it started")
        assert not process.scratch.exists()


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
    launcher.wait(timeout=10)
    launcher.stdout.close()
    assert wait_until(lambda: not any(map(is_running, family)), timeout_s=20)
    assert wait_until(lambda: not Path(scratch).exists(), timeout_s=10)
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
    assert wait_until(lambda: not any(map(is_running, stubs)), timeout_s=5)


@pytest.fixture
def installed_server(tmp_path: Path) -> Iterator[Path]:
    """A server laid out as in NVIDIA's container: the stub beside the backend, libraries in lib."""
    wheel = find_installation()
    root = tmp_path / "tritonserver"
    (root / "bin").mkdir(parents=True)
    shutil.copy(wheel.binary, root / "bin")
    shutil.copytree(wheel.backends(tmp_path / "parts"), root / "backends")
    (root / "lib").symlink_to(wheel.libraries[0])
    yield root / "bin" / "tritonserver"


def test_an_installed_server_is_used(
    installed_server: Path, start_server: StartServer, repository: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = repository(a=embed_code())
    server = start_server(repository=folder, server=str(installed_server))
    assert psutil.Process(server.pid).exe() == str(installed_server)
    server.stop()
    monkeypatch.setenv("PATH", f"{installed_server.parent}:{os.environ['PATH']}")
    server = start_server(repository=folder, server="system")
    assert psutil.Process(server.pid).exe() == str(installed_server)
    assert infer(server, "a", b"x").tolist() == [[1.0] * 4]


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20
