"""Addresses of servers as they were set, and the IP addresses that they stand for now.

A name may have several addresses, one for each server behind it, and they change: a headless
service of Kubernetes has those of its ready pods. So names are resolved again at each look.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import re
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

# IP addresses of a host and a port.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
# A target with a scheme (``dns:///triton:8001``, ``unix:/run/triton.sock``) is left to gRPC.
_NAMED = re.compile(r"([^\s:/\[\]]+):(\d{1,5})")
_LOOKUP_S = 10.0


async def look_up(host: str, port: int) -> list[str]:
    """By the system's resolver. Raises OSError: the name has no address, or nobody answers."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in found]


class Name:
    """One address as it was set; ``target`` is gRPC's form of it."""

    def __init__(self, target: str) -> None:
        self.target = target
        match = _NAMED.fullmatch(target)
        self._place = (match[1], int(match[2])) if match and not is_ip(match[1]) else None
        self._known: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._is_failing = False

    async def look(self, resolve: Resolve) -> None:
        """Resolves the name again. Without an answer, the addresses that are known stay."""
        if self._place is None:
            return
        host, port = self._place
        try:
            found = await asyncio.wait_for(resolve(host, port), _LOOKUP_S)
        # UnicodeError: the name cannot be one.
        except (OSError, UnicodeError, asyncio.TimeoutError) as error:
            if not self._is_failing:
                logger.warning("server %s: its name is not resolved: %s", self.target, error)
            self._is_failing = True
            return
        self._is_failing = False
        known = tuple(dict.fromkeys(found))
        self._known = (
            tuple(f"{one}:{port}" for one in known if ":" not in one),
            tuple(f"[{one}]:{port}" for one in known if ":" in one),
        )

    def targets(self, is_ready: Callable[[str], bool]) -> tuple[str, ...]:
        """The servers behind the name.

        Addresses of both kinds are mostly two of one server, which would get twice its share. So
        those of IPv6 count if there are no others, or if nobody answers at the others.
        """
        if self._place is None:
            return (self.target,)
        fours, sixes = self._known
        return fours if fours and (not sixes or any(map(is_ready, fours))) else fours + sixes


class PageName:
    """The address of a page over HTTP, whose name may stand for several servers with one each."""

    def __init__(self, url: str, kept_s: float) -> None:
        """kept_s: for how long the addresses are good."""
        self.url, self._kept_s = url, kept_s
        parts = urlsplit(url)
        # A certificate is for the name.
        is_plain = parts.scheme == "http" and parts.hostname is not None
        self._name = Name(f"{parts.hostname}:{parts.port or 80}") if is_plain else None
        self._path, self._looked_at = url[len("http://") + len(parts.netloc) :], -math.inf

    async def urls(self, resolve: Resolve) -> list[str]:
        """One for each server."""
        if self._name is None:
            return [self.url]
        if time.monotonic() - self._looked_at > self._kept_s:
            self._looked_at = time.monotonic()
            await self._name.look(resolve)
        found = self._name.targets(lambda _: True)
        return [f"http://{one}{self._path}" for one in found] if len(found) > 1 else [self.url]


def is_ip(host: str) -> bool:
    """Whether a host is an address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
