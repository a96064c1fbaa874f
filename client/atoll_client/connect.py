"""Which transport an address asks for."""

from __future__ import annotations

from atoll_client.address import parse_address
from atoll_client.grpc_transport import GrpcTransport
from atoll_client.transport import Metadata, Transport


def connect(address: str, metadata: Metadata) -> Transport:
    """The transport that an address asks for; nothing is sent yet.

    Raises:
        ValidationError: it is no address.
    """
    is_http, target = parse_address(address)
    if is_http:
        from atoll_client.http_transport import HttpTransport

        return HttpTransport(target, metadata)
    return GrpcTransport(target, metadata)
