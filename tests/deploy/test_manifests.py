"""Manifests for KServe and SkyPilot: the shape of their kinds, commands that start, routes that
answer."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import ROOT, check, containers
from command_lines import check_command, parse

from atoll_client.gateway.routes import ROUTES

DEPLOY = ROOT / "deploy"
KSERVE = sorted(DEPLOY.glob("kserve/*.yaml"))
PUBLIC = {route.path for route in ROUTES if route.method == "GET" and route.public}


def read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


@pytest.mark.parametrize("path", KSERVE, ids=lambda path: path.stem)
def test_kserve_takes_it(path: Path) -> None:
    check(read(path))


@pytest.mark.parametrize("name", ["runtime", "llm-inference-service"])
def test_kserves_containers_start(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = containers(read(DEPLOY / "kserve" / f"{name}.yaml"))
    values = check_command(one, monkeypatch)
    ports = {port["containerPort"] for port in one["ports"]}
    assert ports == {values["port"]}
    own = [values[flag] for flag in ("port", "gateway_grpc_port", "http_port", "grpc_port")]
    assert len({*own, values["metrics_port"]}) == 5
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        get = one[probe]["httpGet"]
        assert get["path"] in PUBLIC and get["port"] in ports
    # Where the storage initializer puts the checkpoint, and where the caches may be written.
    assert values["model_id"] == ["/mnt/models"]
    assert one["securityContext"]["readOnlyRootFilesystem"]
    assert {"/data", "/tmp", "/dev/shm"} == {m["mountPath"] for m in one["volumeMounts"]}


def test_the_example_is_of_the_runtimes_format() -> None:
    runtime, service = (
        read(DEPLOY / "kserve" / f"{name}.yaml")["spec"]
        for name in ("runtime", "inference-service")
    )
    formats = {found["name"] for found in runtime["supportedModelFormats"]}
    model = service["predictor"]["model"]
    assert model["modelFormat"]["name"] in formats
    assert model["protocolVersion"] in runtime["protocolVersions"]
    assert runtime["annotations"]["prometheus.kserve.io/path"] in PUBLIC


def test_skypilots_example_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    task = read(DEPLOY / "skypilot.yaml")
    assert task["service"]["readiness_probe"]["path"] in PUBLIC
    program, *arguments = shlex.split(task["run"])
    assert program.endswith("/bin/atoll")
    values = parse([a.replace("$MODEL", task["envs"]["MODEL"]) for a in arguments], {}, monkeypatch)
    assert values["model_id"] == [task["envs"]["MODEL"]]
    assert values["port"] == task["resources"]["ports"]
