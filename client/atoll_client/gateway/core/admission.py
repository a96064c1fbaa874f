"""Limits of the number of open requests and of the bytes of their bodies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from atoll_client.errors import Overloaded
from atoll_client.gateway.core.models import Models
from atoll_client.gateway.core.settings import GatewaySettings

# The limit if there is no setting, unless the models accept more.
_LEAST_REQUESTS = 2048


class Admission:
    """Counts open requests (``num_open``) and the bytes of their bodies (``num_bytes``)."""

    def __init__(self, settings: GatewaySettings, models: Models) -> None:
        self._max_requests = settings.max_concurrent_requests
        self._max_bytes = settings.max_held_bytes
        self._models = models
        self.num_open = self.num_bytes = 0

    @contextlib.contextmanager
    def admitted(self, count: int = 1) -> Iterator[None]:
        """``with``: counts a request, or ``count`` answers of one.

        Raises:
            Overloaded: there are too many.
        """
        limit = self._max_requests or max(_LEAST_REQUESTS, self._models.num_held_at_most())
        if self.num_open + count > limit:
            raise Overloaded(
                f"{self.num_open} requests are held; max_concurrent_requests is {limit}"
            )
        self.num_open += count
        try:
            yield
        finally:
            self.num_open -= count

    @contextlib.contextmanager
    def held(self) -> Iterator[Callable[[int], None]]:
        """``with``: counts the bytes of one request, which are added by calls of the value.

        A call raises Overloaded if all requests together have too many.
        """
        own = 0

        def add(num_bytes: int) -> None:
            nonlocal own
            if self.num_bytes + num_bytes > self._max_bytes:
                raise Overloaded(
                    f"requests of {self.num_bytes} bytes are held; "
                    f"max_held_bytes is {self._max_bytes}"
                )
            own += num_bytes
            self.num_bytes += num_bytes

        try:
            yield add
        finally:
            self.num_bytes -= own
