"""Which TCP ports are free."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from atoll.errors import ConfigError

MAX_PORT = 65535


# Below are those of well-known programs.
_FIRST = 10_000
_GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that nothing listened on a moment ago, and that the system gives to nobody by itself:
    another program's connection could take such a port before a server listens."""
    # Not the shared generator: processes with the same seed would draw the same ports.
    drawn = iter(random.SystemRandom().sample(given_to_nobody(), k=1000))
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            one, port = stack.enter_context(socket.socket()), next(drawn)
            with suppress(OSError):
                one.bind((host, port))
                found.append(port)
        return found


def given_to_nobody() -> range:
    """Ports that the system does not give to a socket that names none."""
    first = 32_768
    with suppress(OSError):
        first = int(_GIVEN.read_text().split()[0])
    # Some systems give all of them.
    return range(_FIRST, first) if first >= 2 * _FIRST else range(_FIRST, MAX_PORT + 1)


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
