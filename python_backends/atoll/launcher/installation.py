"""Where tritonserver and its Python backend are, and how they are put together.

The wheel ``nvidia-pytriton`` keeps stubs for several Python versions apart from the backend, which
expects its stub in its own folder: we create a folder with both. The package is located, not
imported. An installed server (for example in NVIDIA's container) is used as it is.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from atoll.environment import SCRATCH
from atoll.errors import ConfigError

STUB = "triton_python_backend_stub"
_BACKEND = "libtriton_python.so"
_SYSTEM_BINARY = Path("/opt/tritonserver/bin/tritonserver")


@dataclass(frozen=True)
class Installation:
    """A tritonserver and its parts.

    stub: the Python backend's stub for the running Python.
    libraries: folders to put in front of LD_LIBRARY_PATH.
    is_wheel: the stub must first be put into the backend's folder.
    """

    binary: Path
    backend: Path
    stub: Path
    caches: Path
    libraries: tuple[Path, ...]
    is_wheel: bool

    def backends(self, scratch: Path) -> Path:
        """The ``--backend-directory``; for the wheel, a new folder inside ``scratch``."""
        if not self.is_wheel:
            return self.backend.parent.parent
        folder = scratch / "backends" / "python"
        folder.mkdir(parents=True)
        for source in (self.backend, self.backend.with_name("triton_python_backend_utils.py")):
            shutil.copy(source, folder)
        stub = folder / STUB
        shutil.copy(self.stub, stub)
        stub.chmod(stub.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        return folder.parent

    def environment(self, scratch: Path | None = None) -> dict[str, str]:
        """PATH and LD_LIBRARY_PATH that make the stub run this Python with its own libraries.

        The stub runs the first ``python3`` on PATH; without LIBDIR it may load another libpython.

        scratch: a folder that is removed whatever happens to the server.
        """
        inherited = [p for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p]
        libraries = [*map(str, self.libraries), str(sysconfig.get_config_var("LIBDIR"))]
        path = os.environ.get("PATH", os.defpath)
        return {
            "PATH": f"{python_folder()}:{path}",
            "LD_LIBRARY_PATH": ":".join([*libraries, *inherited]),
            "PYTHONUNBUFFERED": "1",
            **({} if scratch is None else {SCRATCH: str(scratch)}),
        }


def find_installation(server: str | None = None) -> Installation:
    """The server to start.

    Args:
        server: path of a tritonserver, "system" for the one on PATH, None for the wheel's.

    Raises:
        ConfigError: it, or the stub for this Python, is missing; says what to install.
    """
    if server is None:
        spec = importlib.util.find_spec("pytriton")
        locations = list(spec.submodule_search_locations or ()) if spec else []
        if not locations:
            raise ConfigError(
                "tritonserver is not installed: pip install nvidia-pytriton==0.7.0, "
                "or use one that is: --server system"
            )
        return _describe(Path(locations[0]) / "tritonserver" / "bin" / "tritonserver")
    if server == "system":
        found = shutil.which("tritonserver")
        return _describe(Path(found).resolve() if found else _SYSTEM_BINARY)
    return _describe(Path(server).expanduser().resolve())


def python_folder() -> Path:
    """The folder whose ``python3`` the stub will run.

    Raises:
        ConfigError: its ``python3`` is missing, or is a different Python.
    """
    folder = Path(sys.executable).parent
    python = folder / "python3"
    if not python.exists() or not python.samefile(sys.executable):
        raise ConfigError(
            f"the Python backend runs {python}, which is not {sys.executable}; "
            "use a virtual environment"
        )
    return folder


def _describe(binary: Path) -> Installation:
    if not os.access(binary, os.X_OK):
        raise ConfigError(f"tritonserver: {binary} is not there or cannot be executed")
    root = binary.parent.parent
    backend = root / "backends" / "python" / _BACKEND
    if not backend.exists():
        raise ConfigError(f"tritonserver: {backend} is missing, the Python backend")
    stubs = root / "python_backend_stubs"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = stubs / version / STUB if stubs.exists() else backend.with_name(STUB)
    if not stub.exists():
        known = sorted(path.name for path in stubs.glob("*"))
        raise ConfigError(
            f"tritonserver: no Python backend stub for Python {version} ({stub}); "
            f"there are: {', '.join(known) or 'none'}"
        )
    libraries = (root.parent.parent / "nvidia_pytriton.libs", root / "lib")
    return Installation(
        binary=binary,
        backend=backend,
        stub=stub,
        caches=root / "caches",
        libraries=tuple(path for path in libraries if path.exists()),
        is_wheel=stubs.exists(),
    )
