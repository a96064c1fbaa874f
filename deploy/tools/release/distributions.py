"""The two distributions of the repository: built with hatchling, and what has to be in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class ReleaseError(Exception):
    """What is wrong with the checkout or with what was built from it."""


@dataclass(frozen=True)
class Distribution:
    """A pyproject.toml and its packages.

    folder: relative to the repository. packages: folders relative to ``folder``; the first has the
        version. licences: files inside ``dist-info/licenses``.
    """

    name: str
    folder: str
    packages: tuple[str, ...]
    licences: frozenset[str]

    @property
    def stem(self) -> str:
        """What the names of its files begin with."""
        return self.name.replace("-", "_")

    def version(self, root: Path) -> str:
        """The version in its source, the only place that has it."""
        text = (root / self.folder / self.packages[0] / "__init__.py").read_text()
        found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
        if not found:
            raise ReleaseError(f"{self.packages[0]}/__init__.py has no __version__")
        return found[1]


_SWAGGER = "atoll_client/gateway/assets/swagger-ui"
DISTRIBUTIONS = (
    Distribution(
        "atoll", ".", ("python_backends/atoll", "kernels/atoll_kernels"), frozenset({"LICENSE"})
    ),
    Distribution(
        "atoll-client", "client", ("atoll_client",),
        frozenset({
            "LICENSE", f"{_SWAGGER}/LICENSE", f"{_SWAGGER}/NOTICE",
            f"{_SWAGGER}/swagger-ui-bundle.js.LICENSE.txt",
        }),
    ),
)  # fmt: skip


def common_version(root: Path) -> str:
    """The version of both distributions.

    Raises:
        ReleaseError: they differ, or the extra ``server`` takes another client than this one.
    """
    versions = {each.name: each.version(root) for each in DISTRIBUTIONS}
    if len(set(versions.values())) != 1:
        raise ReleaseError(f"the versions differ: {versions}")
    (version,) = set(versions.values())
    major, minor = map(int, version.split(".")[:2])
    wanted = f'"atoll-client[gateway]>={version},<{major}.{minor + 1}"'
    if wanted not in (root / "pyproject.toml").read_text():
        raise ReleaseError(f"the extra server of pyproject.toml has to ask for {wanted}")
    return version


def build(folder: Path, target: Path, environment: Mapping[str, str] | None = None) -> None:
    """Builds the source distribution and the wheel of a folder with this Python's hatchling."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(target.resolve())],
        cwd=folder, env={**os.environ, **(environment or {})}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise ReleaseError(f"hatchling in {folder}: {done.stderr.strip()}")


def check_metadata(files: list[Path]) -> None:
    """Raises ReleaseError: an index would refuse a file, or not show its description."""
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ReleaseError(f"twine check: {done.stdout}{done.stderr}")


def check_contents(root: Path, distribution: Distribution, wheel: Path) -> None:
    """Raises ReleaseError: a wheel lacks a file of its packages or a licence, or has one more."""
    version = distribution.version(root)
    info = f"{distribution.stem}-{version}.dist-info"
    wanted = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    wanted |= {f"{info}/licenses/{name}" for name in distribution.licences}
    for package in distribution.packages:
        folder = root / distribution.folder / package
        wanted |= {f"{folder.name}/{name}" for name in tracked(folder)}
    with zipfile.ZipFile(wheel) as archive:
        there = set(archive.namelist())
    if there != wanted:
        missing, more = sorted(wanted - there), sorted(there - wanted)
        raise ReleaseError(f"{wheel.name} lacks {missing[:5]} and should not have {more[:5]}")


def tracked(folder: Path) -> list[str]:
    """The files of a folder that git has, or would add, relative to it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.splitlines() if (folder / name).exists()]
