"""Installs the build of torch that fits the machine: ``python torch_build.py [BUILD]``.

BUILD is ``cpu``, a CUDA version (``cu126``) or ROCm version (``rocm6.4``) that torch is built for,
``pypi`` for the one on the package index, which is for CUDA, or ``auto``: ``pypi`` on a machine
with an NVIDIA GPU, else ``cpu``, which is a tenth of the size. What is installed and fits is kept.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INDEX = "https://download.pytorch.org/whl/"
_PIP = (
    sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-compile",
    "--retries", "1",
)  # fmt: skip
_BUILD = re.compile(r"cpu|cu\d{3}|rocm\d+\.\d+(\.\d+)?|pypi|auto")


def main() -> None:
    """Tries one way after the other; ends with the last one's failure."""
    asked = sys.argv[1] if len(sys.argv) > 1 else "auto"
    if not _BUILD.fullmatch(asked):
        sys.exit(f"TORCH={asked}: it is cpu, cu126 and the like, rocm6.4 and the like, or pypi")
    build = chosen(asked)
    there = installed()
    if fits(there, build, is_asked=asked != "auto"):
        print(f"torch {there} is installed" + ("" if asked == "auto" else f": TORCH={build}"))
        return
    for arguments in ways(build, version(), is_asked=asked != "auto"):
        print("pip install", *arguments, flush=True)
        if subprocess.run([*_PIP, *arguments]).returncode == 0:
            return
    sys.exit(f"TORCH={build}: this build of torch {version()} was not found")


def version() -> str:
    """The version that pyproject.toml pins."""
    found = re.search(r'"torch==([^"]+)"', (ROOT / "pyproject.toml").read_text())
    assert found is not None
    return found[1]


def installed() -> str | None:
    """The version of this environment's torch, with its build: 2.13.0+cpu."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def chosen(asked: str) -> str:
    """The build for this machine, if it is left to it."""
    if asked != "auto":
        return asked
    if shutil.which("nvidia-smi"):
        return "pypi"
    if shutil.which("rocminfo") or Path("/opt/rocm").exists():
        print(
            "an AMD GPU needs a build that is named, TORCH=rocm6.4 for example; this is the CPU's"
        )
    return "cpu"


def fits(there: str | None, build: str, is_asked: bool) -> bool:
    """Whether the installed torch is this build. What nobody asked to change stays as it is."""
    if there is None or there.partition("+")[0] != version():
        return False
    return not is_asked or build == "pypi" or there.partition("+")[2] == build


def ways(build: str, number: str, is_asked: bool) -> list[list[str]]:
    """The arguments of pip to try in turn.

    A build that pip finds where it looks by itself (a folder of wheels, a mirror) needs no index
    of torch's. If it cannot be had at all, and nobody asked for it, any build will do.
    """
    if build == "pypi":
        return [[f"torch=={number}"]]
    own = [f"torch=={number}+{build}"]
    found = [own, [*own, "--index-url", INDEX + build]]
    return found if is_asked else [*found, [f"torch=={number}"]]


if __name__ == "__main__":
    main()
