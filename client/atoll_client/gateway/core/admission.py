"""Limits of the number of open requests and of the bytes of their bodies.

One client who takes all of either would keep the others out: those who have less than an equal
share get in beyond the limit, up to a quarter more.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from atoll_client.errors import Overloaded
from atoll_client.gateway.core.models import Models
from atoll_client.gateway.core.settings import GatewaySettings

# The limit if there is no setting, unless the models accept more.
_LEAST_REQUESTS = 2048


class Admission:
    """Counts open requests (``num_open``) and the bytes of their bodies (``num_bytes``).

    Clients are named as by ``clients``.
    """

    def __init__(self, settings: GatewaySettings, models: Models) -> None:
        self._max_requests = settings.max_concurrent_requests
        self._max_bytes = settings.max_held_bytes
        self._models = models
        self._open, self._bytes = _Shared(), _Shared()

    @property
    def num_open(self) -> int:
        """Requests that are open, or answers of them."""
        return self._open.total

    @property
    def num_bytes(self) -> int:
        """Bytes of their bodies."""
        return self._bytes.total

    @contextlib.contextmanager
    def admitted(self, client: str, count: int = 1) -> Iterator[None]:
        """``with``: counts a client's request, or ``count`` answers of one.

        Raises:
            Overloaded: there are too many.
        """
        limit = self._max_requests or max(_LEAST_REQUESTS, self._models.num_held_at_most())
        if not self._open.has_room(client, count, limit):
            raise Overloaded(
                f"{self.num_open} requests are held; max_concurrent_requests is {limit}"
            )
        self._open.add(client, count)
        try:
            yield
        finally:
            self._open.add(client, -count)

    @contextlib.contextmanager
    def held(self, client: str) -> Iterator[Callable[[int], None]]:
        """``with``: counts the bytes of one request, which are added by calls of the value.

        A call raises Overloaded if all requests together have too many.
        """
        own = 0

        def add(num_bytes: int) -> None:
            nonlocal own
            if not self._bytes.has_room(client, num_bytes, self._max_bytes):
                raise Overloaded(
                    f"requests of {self.num_bytes} bytes are held; "
                    f"max_held_bytes is {self._max_bytes}"
                )
            own += num_bytes
            self._bytes.add(client, num_bytes)

        try:
            yield add
        finally:
            self._bytes.add(client, -own)


class _Shared:
    """What clients have of something that is limited."""

    def __init__(self) -> None:
        self.total = 0
        self._own = Counter[str]()

    def has_room(self, client: str, count: int, limit: int) -> bool:
        """Whether a client may have ``count`` more."""
        total = self.total + count
        if total <= limit:
            return True
        num_clients = len(self._own.keys() | {client})
        is_below_share = num_clients > 1 and self._own[client] + count <= limit // num_clients
        return is_below_share and total <= limit + max(limit // 4, 1)

    def add(self, client: str, count: int) -> None:
        """It has so many more, or less."""
        self.total += count
        self._own[client] += count
        if not self._own[client]:
            del self._own[client]
