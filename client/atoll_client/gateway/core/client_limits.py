"""Requests and tokens a minute of each client, as a window that moves on with the time.

A request counts when it comes. Its tokens, of the prompt and the answer, are known when it has
ended: an answer is not cut, but until the window has moved on, the client's next requests are
refused.
"""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from atoll_client.errors import Overloaded
from atoll_client.gateway.core.settings import GatewaySettings
from atoll_client.gateway.core.web import Request

_REQUESTS, _TOKENS = "requests", "tokens"


class RateLimited(Overloaded):
    """A client has had all that it may have in a minute."""


class ClientLimits:
    """What each client of ``clients`` may do; nothing is limited where a setting is 0."""

    def __init__(self, settings: GatewaySettings) -> None:
        given = {_REQUESTS: settings.requests_per_minute, _TOKENS: settings.tokens_per_minute}
        self._limits = {
            name: RateLimitItemPerMinute(amount, namespace=name)
            for name, amount in given.items()
            if amount
        }
        self._window = SlidingWindowCounterRateLimiter(MemoryStorage())

    def admit(self, request: Request) -> None:
        """Counts a request.

        Raises:
            RateLimited: its client has had all requests or tokens of the last minute.
        """
        client = request.client_name
        tokens, requests = self._limits.get(_TOKENS), self._limits.get(_REQUESTS)
        if tokens is not None and not self._window.test(tokens, client):
            raise self._refusal(_TOKENS, client)
        if requests is not None and not self._window.hit(requests, client):
            raise self._refusal(_REQUESTS, client)

    def ended(self, request: Request) -> None:
        """Counts what a request has taken."""
        limit = self._limits.get(_TOKENS)
        usage = request.usage
        taken = usage.num_input_tokens + usage.num_output_tokens
        if limit is None or not taken or not request.client_name:
            return
        left = self._window.get_window_stats(limit, request.client_name).remaining
        self._window.hit(limit, request.client_name, cost=min(taken, left))

    def headers(self, request: Request) -> list[tuple[bytes, bytes]]:
        """What is left to a request's client, in OpenAI's headers; none if nothing is limited."""
        found = list[tuple[bytes, bytes]]()
        if not request.client_name:
            return found
        for name, limit in self._limits.items():
            reset_s, left = self._stats(name, request.client_name)
            values = {"limit": limit.amount, "remaining": left, "reset": f"{reset_s:.0f}s"}
            found += [
                (f"x-ratelimit-{what}-{name}".encode(), str(value).encode())
                for what, value in values.items()
            ]
        return found

    def _refusal(self, name: str, client: str) -> RateLimited:
        limit = self._limits[name].amount
        error = RateLimited(
            f"this client has had its {name} of the last minute: {name}_per_minute is {limit}"
        )
        error.retry_after_s = max(self._stats(name, client)[0], 1.0)
        return error

    def _stats(self, name: str, client: str) -> tuple[float, int]:
        """Seconds until there is more than now, and what is left."""
        found = self._window.get_window_stats(self._limits[name], client)
        return max(math.ceil(found.reset_time - time.time()), 0), int(found.remaining)
