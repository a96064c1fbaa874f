"""Which build of torch ``make serve`` installs: deploy/tools/torch_build.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import torch_build

ROOT = Path(__file__).resolve().parents[2]
NUMBER = torch_build.version()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "deploy" / "tools" / "torch_build.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_what_is_installed_is_kept() -> None:
    """No command of pip: an index of torch's is never asked where a build is there."""
    done = run()
    assert (done.returncode, done.stdout) == (0, f"torch {torch_build.installed()} is installed\n")
    assert run("pypi").stdout == f"torch {torch_build.installed()} is installed: TORCH=pypi\n"


@pytest.mark.parametrize("name", ["cu12", "gpu", "cpu ", "rocm6", "CPU"])
def test_an_unknown_build_is_refused_by_name(name: str) -> None:
    done = run(name)
    assert done.returncode == 1 and f"TORCH={name}: it is cpu, cu126" in done.stderr


def test_the_machine_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert torch_build.chosen("auto") == "cpu" and torch_build.chosen("cu126") == "cu126"
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert torch_build.chosen("auto") == "pypi" and torch_build.chosen("cpu") == "cpu"


@pytest.mark.parametrize(
    ("there", "build", "is_asked", "fitting"),
    [
        (None, "cpu", False, False),
        (f"{NUMBER}+cpu", "cpu", False, True),
        (f"{NUMBER}+cpu", "pypi", False, True),
        (NUMBER, "cpu", False, True),
        (NUMBER, "cpu", True, False),
        (f"{NUMBER}+cpu", "cu126", True, False),
        (f"{NUMBER}+cu126", "cu126", True, True),
        ("1.0.0+cpu", "cpu", False, False),
    ],
)
def test_what_fits(there: str | None, build: str, is_asked: bool, fitting: bool) -> None:
    assert torch_build.fits(there, build, is_asked) is fitting


def test_an_index_of_its_own_comes_after_what_pip_finds() -> None:
    own, index, any_build = torch_build.ways("cpu", NUMBER, is_asked=False)
    assert own == [f"torch=={NUMBER}+cpu"] and any_build == [f"torch=={NUMBER}"]
    assert index == [*own, "--index-url", torch_build.INDEX + "cpu"]
    assert torch_build.ways("cu126", NUMBER, is_asked=True)[-1][-1].endswith("/cu126")
    assert torch_build.ways("pypi", NUMBER, is_asked=True) == [[f"torch=={NUMBER}"]]
