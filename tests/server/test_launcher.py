"""The launcher with models that do as little as possible, and with ones that misbehave."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import tritonclient.grpc as triton
from small_models import STREAM, StartServer, embed_code, infer, post

from atoll.errors import ConfigError, NotReady
from atoll.launcher import ServerOptions, ServerProcess, free_ports
from atoll.launcher.installation import find_installation
from atoll.launcher.ports import given_to_nobody


def test_models_answer_when_the_server_is_ready(
    start_server: StartServer, repository: Callable[..., Path]
) -> None:
    server = start_server(repository=repository(a=embed_code(), b=embed_code(value="2"), c=STREAM))
    assert {m.name: m.task for m in server.models} == {"a": "embed", "b": "embed", "c": "generate"}
    assert infer(server, "a", b"x").tolist() == [[1.0] * 4]
    assert infer(server, "b", b"x").tolist() == [[2.0] * 4]
    assert 0 < server.startup_s < 60
    with urllib.request.urlopen(server.metrics_url, timeout=60) as response:
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
    # Who waited for the model would see the test's own end.
    with pytest.raises(NotReady) as caught:
        start_server(repository=folder, startup_timeout_s=3600)
    assert str(caught.value) == (
        "model 'bad' failed to load: RuntimeError: no \"weights\" in: /x\nsecond line"
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [("float('nan')", "embedding is not finite"), ("texts.no_such_thing", "no_such_thing")],
)
def test_a_model_that_loads_but_cannot_answer_is_not_ready(
    value: str, message: str, start_server: StartServer, repository: Callable[..., Path]
) -> None:
    with pytest.raises(NotReady, match=f"(?s)model 'a'.*{message}"):
        start_server(repository=repository(a=embed_code(value=value)))


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


def test_free_ports_are_different_and_given_to_nobody_else() -> None:
    """A connection of another program took one before the server listened."""
    ports = free_ports(20)
    assert len(set(ports)) == 20
    with socket.socket() as listening, socket.socket() as unnamed:
        listening.bind(("127.0.0.1", ports[0]))
        unnamed.bind(("127.0.0.1", 0))
        assert unnamed.getsockname()[1] not in given_to_nobody()
    assert set(ports) <= set(given_to_nobody())
