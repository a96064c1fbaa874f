"""What was built is served, by a Python that knows no checkout and for a user who has nothing yet.

In every run: the wheels in an environment of their own, the rest from the one that runs the tests.
With ``ATOLL_TEST_INSTALL=1``, which takes minutes: everything installed by pip into an empty one,
kernels compiled and weights unpacked in an empty home.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from serving import serving

import atoll
from atoll.weights.embedded import cache_folder
from release import distributions

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Both, for pip."""
    folder = tmp_path_factory.mktemp("wheels")
    for each in distributions.DISTRIBUTIONS:
        distributions.build(ROOT / each.folder, folder)
    return sorted(folder.glob("*.whl"))


def check_serves(programs: Path, folder: Path, variables: Mapping[str, str]) -> None:
    """An embedding, a chat, pages and descriptions, of models named by the catalogue."""
    home = folder / "home"
    home.mkdir()
    clean = {"HOME": str(home), "PYTHONPATH": "", "ATOLL_NUM_THREADS": "1", **variables}
    code = "import atoll, atoll_client as c, atoll_kernels as k"
    code += "; print(*(module.__file__ for module in (atoll, c, k)))"
    shown = subprocess.run(
        [programs / "python", "-c", code], cwd=folder, env={**os.environ, **clean},
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.split()  # fmt: skip
    assert all(Path(path).is_relative_to(programs.parent) for path in shown), shown
    names = ("--model-id=all-minilm-l6-v2", "--model-id=smollm2-135m-instruct")
    with serving(folder, *names, program=programs / "atoll", within_s=600, **clean) as running:
        texts = {"model": "all-minilm-l6-v2", "input": ["A man eats."]}
        (row,) = _asked(running.url() + "/v1/embeddings", texts)["data"]
        assert sum(x * x for x in row["embedding"]) == pytest.approx(1, abs=1e-3)
        asked = {"role": "user", "content": "What is the capital of France?"}
        chat = {"model": "smollm2-135m-instruct", "messages": [asked], "temperature": 0}
        (choice,) = _asked(running.url() + "/v1/chat/completions", chat)["choices"]
        assert "Paris" in choice["message"]["content"]
        assert _asked(running.url() + "/version") == {"version": atoll.__version__}
        described = _asked(running.url() + "/openapi.json")
        assert described["info"]["version"] == atoll.__version__
        answers = described["paths"]["/v1/chat/completions"]["post"]["responses"]
        assert "example" in str(answers["200"])
        for page in ("", "docs", "assets/swagger-ui/swagger-ui.css", "assets/playground/app.js"):
            read = urllib.request.Request(
                f"{running.url()}/{page}", headers={"Accept": "text/html"}
            )
            with urllib.request.urlopen(read, timeout=30) as answer:
                assert answer.status == 200 and len(answer.read()) > 300, page


def test_wheels_serve_without_a_checkout(wheels: list[Path], tmp_path: Path) -> None:
    programs = tmp_path / "venv" / "bin"
    python = [sys.executable, "-m"]
    pip = [*python, "pip", "--python", programs / "python", "install", "--no-deps", "--no-index"]
    subprocess.run([*python, "venv", "--without-pip", programs.parent], check=True, timeout=120)
    subprocess.run([*pip, "--quiet", *wheels], check=True, timeout=120)
    (packages,) = (programs.parent / "lib").glob("python*/site-packages")
    # A line of a .pth file adds a folder, without what .pth files there add: no checkout.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    version = subprocess.run(
        [programs / "atoll", "--version"], capture_output=True, text=True, timeout=60
    )
    assert version.stdout.split() == ["atoll", atoll.__version__]
    # Kernels are compiled and weights unpacked once for all tests.
    check_serves(programs, tmp_path, {"ATOLL_CACHE": str(cache_folder())})


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(
    os.environ.get("ATOLL_TEST_INSTALL") != "1",
    reason="installs torch again: ATOLL_TEST_INSTALL=1",
)
def test_a_newcomers_environment_serves(wheels: list[Path], tmp_path: Path) -> None:
    """By the commands of docs/releases.md, with nothing there before."""
    page = (ROOT / "docs" / "releases.md").read_text()
    *commands, start = re.findall(r"```console\n(.*?)\n```", page, re.DOTALL)[0].splitlines()
    (tmp_path / "dist").symlink_to(wheels[0].parent)
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command.replace("python3 -m", f"{sys.executable} -m")],
            cwd=tmp_path, capture_output=True, text=True, timeout=1200,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert start == "atoll-venv/bin/atoll serve"
    cache = {"ATOLL_CACHE": str(tmp_path / "cache")}
    check_serves(tmp_path / "atoll-venv" / "bin", tmp_path, cache)


def _asked(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())
