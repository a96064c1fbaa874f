"""The Ray Serve adapter, run by a real Ray: streams, clients that go, processes that are killed.

Ray is not a requirement of the tests: the variable ATOLL_TEST_RAY names the Python of an
environment with ``ray[serve]``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from charts import ROOT, check
from driving import save_llama
from long_requests import wait_until
from serving import ATOLL
from tiny.tokenizer import write_tokenizer

from atoll.launcher import free_ports

APP = ROOT / "deploy" / "ray"
PYTHON = os.environ.get("ATOLL_TEST_RAY", "")
slow_ray = pytest.mark.skipif(not PYTHON, reason="ATOLL_TEST_RAY names no Python with ray[serve]")
MODEL = "tiny"
LONG = 30_000


@dataclass(frozen=True)
class Running:
    """``serve run`` with two replicas at /, and a model of two machines at /divided."""

    process: psutil.Process
    http: httpx.Client

    def servers(self, *flags: str) -> list[psutil.Process]:
        """``atoll serve`` of the replicas whose command lines have the flags."""
        return [p for p in self._descendants() if _is(p, "serve", *flags)]

    def workers(self) -> list[psutil.Process]:
        return [p for p in self._descendants() if _is(p, "worker")]

    def _descendants(self) -> list[psutil.Process]:
        return self.process.children(recursive=True)

    def complete(self, prefix: str = "") -> int:
        body = {"prompt": "An atoll is", "max_tokens": 4, "temperature": 0}
        return self.http.post(f"{prefix}/v1/completions", json=body).status_code


def _is(process: psutil.Process, *words: str) -> bool:
    try:
        line = process.cmdline()
    except psutil.Error:
        return False
    return len(line) > 2 and line[1].endswith("/atoll") and set(words) <= set(line[2:])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("ray")
    save_llama(folder / MODEL, max_position_embeddings=2 * LONG)
    write_tokenizer(folder / MODEL)
    (port,) = free_ports(1)
    common = {
        "models": [str(folder / MODEL)], "program": str(ATOLL), "cpus": 0.4,
        "settings": {"num_threads": 1, "max_batch_total_tokens": 100_000}, "exit_timeout_s": 3,
        "startup_timeout_s": 240,
    }  # fmt: skip
    applications = {"/": {"replicas": 2}, "/divided": {"nodes": 2, "num_shard": 2}}
    config = {
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": prefix.strip("/") or "plain", "route_prefix": prefix,
                "import_path": "app:build", "args": {**common, **own},
            }
            for prefix, own in applications.items()
        ],
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    log = (folder / "out.txt").open("w")
    process = subprocess.Popen(
        [str(Path(PYTHON).with_name("serve")), "run", str(folder / "config.yaml")],
        cwd=APP, stdout=log, stderr=subprocess.STDOUT,
        # Ray keeps a token in HOME.
        env={"ATOLL_CACHE": str(Path.home() / ".cache/atoll"), **os.environ, "PYTHONPATH": str(APP),
             "HOME": str(folder)},
    )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            found = Running(psutil.Process(process.pid), http)
            deadline = time.monotonic() + 280
            while not all(_answers(found, prefix) for prefix in ("", "/divided")):
                text = (folder / "out.txt").read_text()
                assert process.poll() is None and time.monotonic() < deadline, text
                assert "failed with exception" not in text, text
                time.sleep(1)
            wait_until(
                lambda: len(found.servers()) == 3 and all(map(_is_up, found.servers())),
                (folder / "out.txt").read_text,
            )
            yield found
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=90)
        _, alive = psutil.wait_procs(family, timeout=30)
        for left in alive:
            left.kill()
    assert not alive


def _answers(running: Running, prefix: str) -> bool:
    try:
        return running.complete(prefix) == 200
    except httpx.HTTPError:
        return False


def _is_up(server: psutil.Process) -> bool:
    try:
        return _metric(server, "atoll_requests_running") == 0
    except httpx.HTTPError:
        return False


def _metric(server: psutil.Process, name: str) -> float:
    """Of one replica, at its gateway."""
    (flag,) = [word for word in server.cmdline() if word.startswith("--port=")]
    page = httpx.get(f"http://127.0.0.1:{flag.removeprefix('--port=')}/metrics").text
    return sum(
        float(line.split()[-1]) for line in page.splitlines() if line.startswith(f"{name}{{")
    )


def _sum(running: Running, name: str) -> float:
    return sum(_metric(server, name) for server in running.servers())


def _has(running: Running, count: int) -> Callable[[], bool]:
    return lambda: len(running.servers()) == count


@slow_ray
@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(600)
def test_requests_pass_and_go_on_when_a_replica_is_killed(running: Running) -> None:
    """One test, since Ray takes half a minute to start."""
    http = running.http
    # An error of the gateway, its headers and its body.
    refused = http.post("/v1/completions", json={"prompt": 1.5, "stop": {}})
    assert refused.status_code == 400 and refused.json()["error"]["type"] == "invalid_request_error"
    assert http.get("/health", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    assert http.get("/v1/models/none%2Fsuch").status_code == 404

    # Events come while the answer is made, of a model on one machine and of one on two; a client
    # that goes ends its request.
    for prefix in ("", "/divided"):
        body = {"prompt": "An atoll is", "max_tokens": 20, "stream": True, "ignore_eos": True}
        whole = http.post(f"{prefix}/v1/completions", json=body).text
        assert whole.endswith("data: [DONE]\n\n"), whole
        endless = {**body, "max_tokens": LONG}
        with http.stream("POST", f"{prefix}/v1/completions", json=endless) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.iter_lines()  # once it is dropped, the connection is closed
            first = json.loads(next(lines).removeprefix("data: "))
            assert first["choices"][0]["finish_reason"] is None
            wait_until(
                lambda: _sum(running, "atoll_requests_running") == 1, lambda: "no request runs"
            )
        wait_until(
            lambda: _sum(running, "atoll_requests_running") == 0,
            lambda: "the request of a client that has gone runs on",
        )
    assert _sum(running, "atoll_requests_cancelled_total") == 2
    assert len(running.workers()) == 1

    # A killed server takes its replica with it; the other one answers until there are two again.
    assert len(running.servers()) == 3
    divided = running.servers("--num-shard=2")
    victim = next(s for s in running.servers() if s not in divided)
    victim.kill()
    statuses = _statuses_until(
        running, lambda: victim not in running.servers() and _has(running, 3)()
    )
    assert statuses.count(200) > len(statuses) / 2
    assert [running.complete() for _ in range(10)] == [200] * 10

    # A killed replica takes its server with it.
    victim = next(s for s in running.servers() if s not in divided)
    replica = victim.parent()
    assert replica is not None and "Replica" in " ".join(replica.cmdline())
    replica.kill()
    psutil.wait_procs([victim], timeout=30)
    assert not victim.is_running()
    wait_until(_has(running, 3), lambda: f"{len(running.servers())} servers")


def _statuses_until(running: Running, is_over: Callable[[], bool]) -> list[int]:
    found: list[int] = []
    deadline = time.monotonic() + 120
    while not is_over():
        assert time.monotonic() < deadline, found
        found.append(running.complete())
        time.sleep(0.1)
    return found


def test_kuberay_takes_the_manifest() -> None:
    manifest = yaml.safe_load((APP / "rayservice.yaml").read_text())
    check(manifest)
    cluster = manifest["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        check({
            "apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "ray"},
            "template": group["template"],
        })  # fmt: skip
    config: dict[str, Any] = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    module, _, builder = application["import_path"].partition(":")
    source = (APP / f"{module}.py").read_text()
    assert f"def {builder}(" in source
    for name in application["args"]:
        assert f"\n    {name}: " in source, name
