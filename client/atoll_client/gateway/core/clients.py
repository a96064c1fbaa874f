"""Who sends a request: a short name by which limits and models tell clients apart, never the key.

``key-`` and the beginning of the key's digest, or without keys ``ip-`` and the address. Lines of
batches are ``batch-`` and the same of their owner, so that they count apart from his own requests.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import unquote

from starlette.datastructures import Headers

from atoll_client.gateway.core.headers import Keys, joined
from atoll_client.gateway.core.settings import Network, networks
from atoll_client.gateway.core.web import Request

# The scope's entry with the owner of a batch whose line it is.
BATCH = "atoll.batch"
_DIGITS = 16
_FORWARDED_FOR = re.compile(r'(?:^|[;,])\s*for=\s*(?:"([^"]*)"|([^;,\s]*))', re.IGNORECASE)
# 192.0.2.1:80, [2001:db8::1]:80 and [2001:db8::1]
_WITH_PORT = re.compile(r"([0-9.]+):[0-9]+|\[([^\]]*)\](?::[0-9]+)?")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Clients:
    """Names of clients. trusted_proxies: addresses or networks, by commas."""

    def __init__(self, keys: Keys, trusted_proxies: str) -> None:
        self._keys, self._trusted = keys, networks(trusted_proxies)

    def name(self, request: Request) -> str:
        """At most 64 printable ASCII characters."""
        owner: str | None = request.scope.get(BATCH)
        if owner is not None:
            return f"batch-{owner[:_DIGITS] or 'all'}"
        owner = self._keys.owner(request.headers)
        if owner:
            return f"key-{owner[:_DIGITS]}"
        peer = request.scope.get("client")
        return f"ip-{_network(self._address(peer[0] if peer else '', request.headers))}"

    def _address(self, peer: str, headers: Headers) -> _Address | None:
        """The peer's address; behind proxies that are trusted, the one that these say."""
        found = _address(peer)
        for text in reversed(_forwarded(headers)):
            if not _is_in(found, self._trusted):
                break
            found = _address(text)
        return found


def peer_of(call_peer: str) -> tuple[str, int] | None:
    """What ASGI calls a client, of gRPC's name for a peer: ``ipv4:127.0.0.1:50000``."""
    kind, _, place = call_peer.partition(":")
    host, _, port = unquote(place).rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdigit():
        return None
    return host.strip("[]"), int(port)


def _forwarded(headers: Headers) -> list[str]:
    """Addresses that proxies have added, the nearest client's last."""
    given = joined(headers, "x-forwarded-for")
    if given:
        return given.split(",")
    return [a or b for a, b in _FORWARDED_FOR.findall(joined(headers, "forwarded"))]


def _address(text: str) -> _Address | None:
    """None: it is no address, as of a Unix socket's peer."""
    text = text.strip()
    match = _WITH_PORT.fullmatch(text)
    try:
        found = ipaddress.ip_address((match[1] or match[2]) if match else text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _is_in(address: _Address | None, trusted: Iterable[Network]) -> bool:
    return address is not None and any(address in network for network in trusted)


def _network(address: _Address | None) -> str:
    """An IPv4 address, or the /64 of an IPv6 address: one client has all of it."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return "unknown" if address is None else str(address)
