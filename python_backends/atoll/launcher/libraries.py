"""Which shared libraries a binary lacks: if a stub cannot start, the server hangs forever."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from atoll.errors import ConfigError
from atoll.launcher.installation import Installation

_MISSING = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)
# Printed instead of "not found" if the C library is too old for the binary.
_VERSION = re.compile(r"version `([^']+)' not found")


def missing_libraries(binary: Path, environment: Mapping[str, str]) -> list[str]:
    """Names of the libraries that the loader does not find; [] if there is no ``ldd``."""
    ldd = shutil.which("ldd")
    if ldd is None:
        return []
    done = subprocess.run(
        [ldd, str(binary)], env=dict(environment), capture_output=True, text=True, timeout=60
    )
    text = done.stdout + done.stderr
    return sorted({*_MISSING.findall(text), *_VERSION.findall(text)})


def check_libraries(installation: Installation, environment: Mapping[str, str]) -> None:
    """Raises ConfigError: a library is missing; names it, its user, and a remedy."""
    for binary in (installation.binary, installation.backend, installation.stub):
        missing = missing_libraries(binary, environment)
        if missing:
            raise ConfigError(
                f"{binary.name} needs {', '.join(missing)}, which cannot be loaded; "
                f"{remedy(missing[0])}"
            )


def remedy(library: str) -> str:
    """How a user can install a missing library."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if library.startswith("libpython"):
        return (
            f"this Python has no shared library: install libpython{version} "
            "(Debian, Ubuntu: apt-get install "
            f"libpython{version}), or use a Python built with --enable-shared"
        )
    if library.startswith("GLIBC"):
        return "the C library is too old for this server: use a newer distribution"
    if library.startswith("libz."):
        return "install it (Debian, Ubuntu: apt-get install zlib1g)"
    if library.startswith("libexpat"):
        return "install it (Debian, Ubuntu: apt-get install libexpat1)"
    return "install the package that has it, or reinstall nvidia-pytriton"
