"""Files that only tools outside this suite read: compose, Dockerfile, Makefile, distributions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from atoll.weights.embedded import EMBEDDED

ROOT = Path(__file__).resolve().parents[2]


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_compose_serves_the_repository_with_room_for_shared_memory() -> None:
    services = compose()["services"]
    assert set(services) == {"atoll", "atoll-gpu", "gateway", "prometheus", "grafana"}
    for service in (services["atoll"], services["atoll-gpu"]):
        assert service["shm_size"] == "1gb"
        assert "./model_repository:/models:ro" in service["volumes"]
        assert (ROOT / service["build"]["dockerfile"]).exists()
    assert "profiles" not in services["atoll"]
    gpu = services["atoll-gpu"]
    assert gpu["profiles"] == ["gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]


def test_compose_puts_a_gateway_in_front_of_the_servers() -> None:
    gateway = compose()["services"]["gateway"]
    assert "atoll:8001" in gateway["environment"]["ATOLL_GATEWAY_SERVER"]
    assert (ROOT / gateway["build"]["dockerfile"]).exists()
    assert any(port.endswith(":8080") for port in gateway["ports"])
    # The servers' own image has no gateway, and must not ask for one.
    assert "PORT=0" in (ROOT / "deploy" / "Dockerfile").read_text()


def test_compose_opens_ports_without_a_key_to_this_machine_only() -> None:
    services = compose()["services"]
    assert all(port.startswith("127.0.0.1:") for port in services["atoll"]["ports"])
    inside = {port.rpartition(":")[2] for port in services["gateway"]["ports"]}
    assert inside == {"8080", "8081"}


def test_compose_confines_every_service() -> None:
    """Where something has to be written is a volume, or memory."""
    for name, service in compose()["services"].items():
        assert service["read_only"] and service["tmpfs"] == ["/tmp"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_compose_has_figures_and_a_dashboard_when_asked() -> None:
    services = compose()["services"]
    for name in ("prometheus", "grafana"):
        service = services[name]
        assert service["profiles"] == ["monitoring"]
        # Neither asks for a password.
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        files = [volume.split(":")[0] for volume in service["volumes"] if volume[0] == "."]
        assert files and all((ROOT / file).is_dir() for file in files)
    (job,) = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())[
        "scrape_configs"
    ]
    (target,) = job["static_configs"][0]["targets"]
    name, _, port = target.partition(":")
    assert any(published.endswith(f":{port}") for published in services[name]["ports"])
    sources = ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml"
    (source,) = yaml.safe_load(sources.read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    providers = ROOT / "deploy/grafana/provisioning/dashboards/atoll.yaml"
    (provider,) = yaml.safe_load(providers.read_text())["providers"]
    mounted = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted


def compose_command() -> list[str] | None:
    """The plugin of the docker client, or the program of its own; either needs no daemon."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not subprocess.call(
            [*command, "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ):
            return command
    return None


@pytest.mark.parametrize("profile", ["", "gpu", "monitoring"])
def test_compose_is_valid_for_docker(profile: str) -> None:
    """Where compose exists; elsewhere the parsed file above has to do."""
    compose = compose_command()
    if compose is None:
        pytest.skip("no docker compose")
    command = [*compose, *(["--profile", profile] if profile else []), "config"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    added = {"": set(), "gpu": {"atoll-gpu"}, "monitoring": {"prometheus", "grafana"}}
    assert services.keys() >= {"atoll"} | added[profile]


def test_the_makefile_knows_its_targets() -> None:
    for target in ("serve", "test", "lint", "type", "format", "release", "clean"):
        done = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_embedded_packages_are_pinned_once() -> None:
    lines = (ROOT / "requirements" / "embedded.txt").read_text().splitlines()
    pins = {line for line in lines if line and not line.startswith("#")}
    assert pins == {model.requirement for model in EMBEDDED.values()}


def test_the_client_needs_no_torch() -> None:
    text = (ROOT / "client" / "pyproject.toml").read_text()
    assert "torch" not in text and "tritonclient" in text
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'client')!r}); import atoll_client; "
        "bad = {'torch', 'atoll', 'transformers'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_typed_packages_say_so() -> None:
    for package in ("kernels/atoll_kernels", "python_backends/atoll", "client/atoll_client"):
        assert (ROOT / package / "py.typed").exists()
