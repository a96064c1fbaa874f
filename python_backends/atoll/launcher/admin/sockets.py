"""Where servers of this machine can be asked: a Unix socket each, in a folder of the user's own."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from atoll.errors import ConfigError
from atoll.weights.embedded import cache_folder

_ENDING = ".sock"
# Of sockaddr_un, with the zero at its end.
_MAX_BYTES = 107
# Where other paths are too long.
_SHORT = Path("/tmp")
_CONNECT_S = 2.0


def folders() -> list[Path]:
    """Where sockets may be, the first choice first."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    found = [Path(runtime) / "atoll"] if runtime and Path(runtime).is_dir() else []
    return [*found, cache_folder() / "servers", _SHORT / f"atoll-{os.geteuid()}"]


def path_of(server_id: str) -> Path:
    """Where a server's socket is to be: in the first folder whose path is short enough."""
    paths = [folder / f"{server_id}{_ENDING}" for folder in folders()]
    return next(path for path in paths if len(os.fsencode(path)) <= _MAX_BYTES)


def listen(path: Path) -> socket.socket:
    """A socket that only this user can connect to; ``remove`` it afterwards.

    Raises:
        ConfigError: the folder is somebody else's, or cannot be written to.
    """
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"the folder of admin sockets cannot be made: {error}") from error
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigError(f"the folder of admin sockets, {folder}, belongs to another user")
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The folder keeps others out until the socket has its own mode.
    one.bind(str(path))
    path.chmod(0o600)
    return one


def remove(one: socket.socket) -> None:
    """Closes a socket and removes its file."""
    path = one.getsockname()
    one.close()
    Path(path).unlink(missing_ok=True)


def running() -> list[Path]:
    """The sockets of servers that run. Files that a killed server has left are removed."""
    found = []
    for folder in folders():
        if not _is_own(folder):
            continue
        for path in sorted(folder.glob(f"*{_ENDING}")):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
                one.settimeout(_CONNECT_S)
                try:
                    one.connect(str(path))
                except (ConnectionRefusedError, FileNotFoundError):
                    with contextlib.suppress(OSError):
                        path.unlink(missing_ok=True)
                    continue
                except OSError:
                    pass  # somebody else's, or it is too busy to answer now
            found.append(path)
    return found


def _is_own(folder: Path) -> bool:
    try:
        return folder.lstat().st_uid == os.geteuid()
    except OSError:
        return False
