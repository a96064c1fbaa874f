"""Every command of the README, run as it stands there, with other ports and local checkpoints."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny.checkpoint import write
from tiny.encoders import TRUNKS, write_text_files

from atoll.launcher.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", README, re.S)
            for line in block.splitlines()]  # fmt: skip
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.S)
PAGES = [
    (page, number, code)
    for page in ("serve.md", "client.md")
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)
    )
]
# make needs the folder that it installs into; under `make test` this is it.
IN_VENV = Path(sys.prefix) == ROOT / ".venv"
DEFAULT_PORTS = {
    "PORT": 8080, "HTTP_PORT": 8000, "GRPC_PORT": 8001, "METRICS_PORT": 8002,
    "SERVE_GATEWAY_GRPC_PORT": 8081,
}  # fmt: skip


def _command(start: str) -> str:
    found = [command for command in COMMANDS if command.startswith(start)]
    assert len(found) == 1, f"the README has {len(found)} commands that start with {start!r}"
    return found[0]


def _here(command: str, ports: dict[str, int]) -> str:
    """The command with this server's ports, and this environment's programs."""
    for name, port in DEFAULT_PORTS.items():
        command = command.replace(f"localhost:{port}", f"127.0.0.1:{ports[name]}")
    return command.replace(".venv/bin/", f"{Path(sys.executable).parent}/")


def _start(command: str, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    # What `make test` itself was given is not meant for another make.
    own = {k: v for k, v in os.environ.items() if k not in ("ARGS", "MAKEFLAGS", "MAKELEVEL")}
    environment = {**own, **{f"ATOLL_{name}": str(port) for name, port in ports.items()}}
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"], cwd=ROOT, env=environment, start_new_session=True
    )
    deadline = time.monotonic() + 200
    # The gateway comes last, when every model has answered.
    url = f"http://127.0.0.1:{ports['PORT']}/health"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=60):
                return process
        except OSError:
            time.sleep(0.5)
    _stop(process)
    raise AssertionError(f"{command} did not become ready")


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C, as a terminal sends it: to the whole group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    return process.wait(60)


def _ports() -> dict[str, int]:
    return dict(zip(DEFAULT_PORTS, free_ports(len(DEFAULT_PORTS)), strict=True))


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    """Ports of a server that the README's first command started, or what make would run."""
    chosen = _ports()
    command = "make serve" if IN_VENV else ".venv/bin/atoll serve"
    assert "make serve" in COMMANDS
    process = _start(_here(command, chosen), chosen)
    yield chosen
    # make ends by the signal itself, as shells expect of it.
    assert _stop(process) in (0, 130, -signal.SIGINT), "Ctrl-C must end it cleanly"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def _output(command: str, ports: dict[str, int]) -> str:
    done = subprocess.run(
        ["bash", "-c", _here(command, ports)], cwd=ROOT, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


# Triton has the same routes as the gateway, on a port of its own.
BOTH_DOORS = pytest.mark.parametrize("door", [8080, 8000])


def _through(door: int, start: str) -> str:
    command = _command(start.replace("PORT", "8080"))
    return command.replace("localhost:8080", f"localhost:{door}")


@BOTH_DOORS
def test_embed(ports: dict[str, int], door: int) -> None:
    command = _through(door, "curl -s localhost:PORT/v2/models/all-minilm")
    answer = json.loads(_output(command, ports))
    vectors = {output["name"]: output for output in answer["outputs"]}["embedding"]
    assert vectors["shape"] == [2, 384]
    first, second = vectors["data"][:384], vectors["data"][384:]
    assert sum(a * b for a, b in zip(first, second, strict=True)) == pytest.approx(0.7553, abs=1e-3)


@BOTH_DOORS
def test_generate(ports: dict[str, int], door: int) -> None:
    command = _through(door, "curl -s localhost:PORT/v2/models/smollm2-135m-instruct/generate ")
    assert "Paris" in json.loads(_output(command, ports))["text_output"]


@BOTH_DOORS
def test_generate_stream(ports: dict[str, int], door: int) -> None:
    command = _through(door, "curl -sN localhost:PORT/v2/models/smollm2")
    lines = _output(command, ports).splitlines()
    pieces = [json.loads(line[6:])["text_output"] for line in lines if line.startswith("data: ")]
    assert len([piece for piece in pieces if piece]) > 4


def test_gateway(ports: dict[str, int]) -> None:
    answer = json.loads(_output(_command("curl -s localhost:8080/v1/chat/completions"), ports))
    assert "Paris" in answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_python(snippet: str, ports: dict[str, int]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _here(snippet, ports)], capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().startswith("(2, 384)")


@pytest.mark.parametrize(("page", "number", "code"), PAGES)
def test_pages_run_on_what_make_serve_serves(
    page: str, number: int, code: str, ports: dict[str, int]
) -> None:
    """The conversation's example had no model to talk to and hung; the client's last had none."""
    done = subprocess.run(
        [sys.executable, "-c", _here(code, ports)], capture_output=True, timeout=120, text=True
    )
    if "shared_memory=True" in code:
        # The page says that the server has to be started for it.
        assert done.returncode == 1 and "--allow-shared-memory" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    wanted = {
        ("serve.md", 0): r"\S.*\n+\S", ("serve.md", 1): "False", ("client.md", 0): "Paris",
        ("client.md", 1): "True", ("client.md", 2): "too late:", ("client.md", 5): r"\(1, 384\)",
    }  # fmt: skip
    assert re.search(wanted.get((page, number), r"\S"), done.stdout), done.stdout


def test_doctor(ports: dict[str, int]) -> None:
    assert "tritonserver" in _output(_command(".venv/bin/atoll doctor"), ports)


def test_own_models(tmp_path: Path) -> None:
    """The hub id of the command is replaced by a folder: tests have no hub."""
    for name in ("my-checkpoint", "second"):
        write(TRUNKS[0], tmp_path / name)
        write_text_files(tmp_path / name, "mean")
    command = _command(".venv/bin/atoll serve --model-id")
    command = command.replace("./my-checkpoint", str(tmp_path / "my-checkpoint"))
    command = command.replace("BAAI/bge-small-en-v1.5", str(tmp_path / "second"))
    chosen = _ports()
    process = _start(_here(command, chosen), chosen)
    try:
        for name in ("my-checkpoint", "second"):
            url = f"http://127.0.0.1:{chosen['HTTP_PORT']}/v2/models/{name}/ready"
            with urllib.request.urlopen(url, timeout=60) as answer:
                assert answer.status == 200
    finally:
        _stop(process)


# From the wheels: tests/server/test_wheel.py runs them, when it is asked to.
PIP = ("python3 -m venv atoll-venv", "atoll-venv/bin/python", "atoll-venv/bin/atoll serve")
# Commands of the pages that no test runs, by how they start, and why.
NOT_RUN = {
    "pip install": "there is no package registry",
    **dict.fromkeys(PIP, "tests/server/test_wheel.py, when it is asked to"),
    "make release": "tests/project/test_release.py has its parts",
    "docker": "there is no docker",
    "helm install": "there is no cluster; tests/deploy renders the chart with all its values",
    "kubectl": "there is no cluster",
    "(printf 'apiVersion": "there is no cluster; tests/deploy/test_alerts.py checks the rules",
    "atoll ps": "tests/server/test_admin.py",
    "atoll load": "tests/server/test_admin.py",
    "atoll reload": "tests/server/test_admin.py",
    "atoll unload": "tests/server/test_admin.py",
    "atoll logs": "tests/server/test_admin.py",
    "atoll pull": "a model is on the hub",
    "openssl": "a key like another",
    "atoll serve --admin-key-file": "tests/server/test_admin.py",
    "ATOLL_LOG_FORMAT=json": "jq is missing; tests/clients/test_gateway_process.py reads the log",
    "perf_analyzer": "tests/server/test_perf_analyzer.py runs it where it is installed",
    "atoll-gateway --server localhost:8001 --port 8080": "tests/clients/test_gateway_process.py",
    "OTLP_ENDPOINT=": "a collector is away here; tests/clients/test_traces.py has one",
    "make serve": "the README's own, run above",
    "MODEL_ID=": "a model is on the hub; the variables are read in tests/settings",
    "atoll serve --allow-shared-memory": "a server of tests/clients/conftest.py has it",
    ".venv/bin/atoll serve --model-id ./my-checkpoint": "the README's own, run above",
    "atoll serve --model-id all-minilm-l6-v2 --model-id bge-reranker-base": "a model is on the hub",
    "atoll serve --repository model_repository --model-id retrieve-rerank": "a model is on the hub",
    "atoll serve --repository model_repository --model-id hybrid-search": "models are on the hub",
    ".venv/bin/atoll serve --repository model_repository --model-id": "a model is on the hub",
    ".venv/bin/atoll serve --model-id meta-llama/Llama-2-70b-hf --num-shard": "see test_ranks.py",
    "ATOLL_SHARD_KEY=... atoll serve": "tests/runner/ranks/test_worker.py, with a small model",
    "ATOLL_SHARD_KEY=... atoll worker": "tests/runner/ranks/test_worker.py, with a small model",
}


def test_pages_have_no_other_commands() -> None:
    """Blocks of the pages were run by nobody, and nobody said why."""
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.S):
            found += block.replace("\\\n", " ").splitlines()
    assert [command for command in found if not command.startswith(tuple(NOT_RUN))] == []
    unused = [start for start in NOT_RUN if not any(c.startswith(start) for c in found)]
    assert unused == []


@pytest.mark.parametrize("page", ["client.md", "cookbook.md", "gateway.md", "serve.md"])
def test_flags_of_the_pages_commands_are_known(page: str) -> None:
    """What cannot be served here, as the hub has it, is at least a command that exists."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)
    lines = [line for block in blocks for line in block.splitlines() if "atoll" in line]
    for line in lines:
        program, _, rest = line.removeprefix(".venv/bin/").partition(" ")
        if program not in ("atoll", "atoll-gateway"):
            continue
        command = [str(Path(sys.executable).parent / program)]
        command += ["serve"] if program == "atoll" else []
        shown = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60)
        assert shown.returncode == 0, shown.stderr
        for flag in re.findall(r"--[a-z-]+", rest):
            assert flag in shown.stdout, f"{page}: {line}: {flag}"


def test_every_command_is_known_here() -> None:
    """A command that is added to the README needs a test above."""
    starts = (
        "make serve", "make test", "curl -s localhost:8080/v2/models/all-minilm",
        "curl -s localhost:8080/v2/models/smollm2", "curl -sN localhost:8080/v2/models/smollm2",
        "curl -s localhost:8080/v1/chat/completions", ".venv/bin/atoll serve --model-id",
        ".venv/bin/atoll doctor", *PIP,
    )  # fmt: skip
    assert [command for command in COMMANDS if not command.startswith(starts)] == []
    by_pip = "\n".join(command for command in COMMANDS if command.startswith(PIP))
    assert f"```console\n{by_pip}\n```" in (ROOT / "docs" / "releases.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in ("serve", "test", "lint"))
