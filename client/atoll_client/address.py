"""Parses a server's address: ``host:port``, or one with a scheme."""

from __future__ import annotations

import re
from typing import NamedTuple

from atoll_client.errors import ValidationError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# Schemes that gRPC resolves itself.
_RESOLVED = re.compile(r"(unix|unix-abstract|dns|ipv4|ipv6|vsock|xds):", re.IGNORECASE)
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(\d{1,5})")
_KNOWN = "host:port of its gRPC, grpc://host:port, or an http:// or https:// address"


class Address(NamedTuple):
    """target: over HTTP (``is_http``), a URL without a slash at its end; else gRPC's target."""

    is_http: bool
    target: str


def parse_address(text: str) -> Address:
    """Raises ValidationError: it is not an address; names it and what is expected."""
    given = text.strip()
    scheme = _SCHEME.fullmatch(given)
    name, rest = (scheme[1].lower(), scheme[2]) if scheme else ("", given)
    rest = rest.rstrip("/")
    if name in ("http", "https") and rest:
        return Address(True, f"{name}://{rest}")
    if _RESOLVED.match(given):
        return Address(False, given)
    found = _HOST_PORT.fullmatch(rest)
    if name not in ("", "grpc") or found is None or not 0 < int(found[2]) < 65536:
        raise ValidationError(f"{text!r} is no address of a server; expected {_KNOWN}")
    return Address(False, rest)
