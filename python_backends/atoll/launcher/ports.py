"""Which TCP ports are free."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import ExitStack

from atoll.errors import ConfigError

MAX_PORT = 65535


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that nothing listened on a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((host, 0))
        return [one.getsockname()[1] for one in sockets]


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on the port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError:
            return False
        return True


def check_distinct(ports: Mapping[str, int]) -> None:
    """Checks that no two ports are equal.

    Args:
        ports: by the flag that sets them; 0: not used.

    Raises:
        ConfigError: two are the same.
    """
    flags: dict[int, str] = {}
    for flag, port in ports.items():
        if port and flags.setdefault(port, flag) != flag:
            raise ConfigError(f"{flags[port]} and {flag} are both {port}; each needs its own port")


def check_free(host: str, ports: Mapping[str, int]) -> None:
    """Checks that all ports are free.

    Args:
        ports: by the flag that sets them.

    Raises:
        ConfigError: one is in use.
    """
    for flag, port in ports.items():
        if not is_free(host, port):
            raise ConfigError(f"port {port} on {host} is in use; choose another with {flag}")
