"""Sends a request to servers, one after the other, until one takes it.

Tried again is only what no server has begun to answer: a request that a server never received,
refused because the model is unloaded or its queue is full, or lost with its connection. The last
may have been the server's end, so such a request is tried only once more, and not if the model may
keep something of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeVar

from atoll_client.errors import (
    AtollError,
    DeadlineExceeded,
    GenerationError,
    Lost,
    NotReady,
    Overloaded,
    Unloaded,
    Unreached,
)
from atoll_client.gateway.core.circuit import RetryBudget
from atoll_client.gateway.core.pool_counters import PoolCounters
from atoll_client.gateway.core.server import Server

T = TypeVar("T")

_NOBODY = "no server is ready"

# Errors of servers that did nothing for the request.
_UNBEGUN = (Unreached, Unloaded, Overloaded)
# Those that say that something is wrong with the server.
_FAILURES = (AtollError, GenerationError, NotReady, Unreached, Lost)


class Attempts:
    """What all requests share: the budget for further attempts, and counters.

    timeout_s: the gateway's limit of an answer's time.
    """

    def __init__(self, retry_budget: float, timeout_s: float, counters: PoolCounters) -> None:
        self._budget, self._counters = RetryBudget(retry_budget), counters
        self.timeout_s = timeout_s

    async def response(
        self,
        model: str,
        servers: Sequence[Server],
        call: Callable[[Server], Awaitable[T]],
        *,
        is_stateless: bool = True,
    ) -> T:
        """The response of the first server that takes the request.

        Args:
            model: whose circuit a failure counts for; "": none, for questions.
            is_stateless: the model keeps nothing of a request, which may therefore run twice.

        Raises:
            NotReady: none is reachable, or none has the model now. What the server raises.
        """
        self._budget.earn()
        failing: _Failing | None = None
        for server in servers:
            try:
                with counted(server):
                    answer = await call(server)
            except AtollError as error:
                failing = failing or _Failing(self, model, servers, is_stateless)
                failing.add(server, error)
                continue
            if server.circuits:
                server.circuits.pop(model, None)
            return answer
        raise NotReady(_NOBODY) if failing is None else failing.refusal

    async def stream(
        self,
        model: str,
        servers: Sequence[Server],
        call: Callable[[Server], AsyncGenerator[T, None]],
        *,
        is_stateless: bool = True,
    ) -> AsyncGenerator[T, None]:
        """The responses of the first server that takes the request. Raises as ``response``."""
        self._budget.earn()
        failing: _Failing | None = None
        has_begun = False
        for server in servers:
            try:
                with counted(server):
                    async with contextlib.aclosing(call(server)) as responses:
                        async for response in responses:
                            has_begun = True
                            yield response
            except AtollError as error:
                failing = failing or _Failing(self, model, servers, is_stateless)
                failing.add(server, error, has_begun)
                continue
            if server.circuits:
                server.circuits.pop(model, None)
            return
        raise NotReady(_NOBODY) if failing is None else failing.refusal

    def may_retry(self, error: AtollError) -> bool:
        """Whether the budget has room for one more attempt; counts it."""
        has_room = self._budget.take()
        self._counters.retried(type(error).__name__, has_room)
        return has_room


class _Failing:
    """A request that a server has failed. refusal: what its client is told at the end."""

    def __init__(
        self, attempts: Attempts, model: str, servers: Sequence[Server], is_stateless: bool
    ) -> None:
        self._attempts, self._model, self._is_stateless = attempts, model, is_stateless
        self._num_left = len(servers)
        self.refusal: AtollError = NotReady(_NOBODY)

    def add(self, server: Server, error: AtollError, has_begun: bool = False) -> None:
        """Returns if the next server may be tried, and raises the error if not.

        has_begun: the request is being answered.
        """
        self._num_left -= 1
        _note(server, self._model, error, self._attempts.timeout_s)
        can_retry = isinstance(error, _UNBEGUN)
        if isinstance(error, Lost):
            can_retry, self._is_stateless = self._is_stateless, False
        if has_begun or not can_retry:
            raise error
        if not isinstance(error, Unreached):
            self.refusal = error
        if self._num_left and not self._attempts.may_retry(error):
            raise error


class counted:
    """``with``: counts a request as one that the server holds."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __enter__(self) -> None:
        self._server.num_outstanding += 1

    def __exit__(self, *reason: object) -> None:
        self._server.num_outstanding -= 1


def _note(server: Server, model: str, error: AtollError, timeout_s: float) -> None:
    """Counts a failure that says something of the server, not of the request."""
    if not model:
        return
    if error.retry_after_s is not None:
        server.circuit(model).spare(error.retry_after_s)
    elif isinstance(error, DeadlineExceeded):
        # A client's own limit may be as short as it likes.
        if (error.timeout_s or 0.0) >= timeout_s:
            server.circuit(model).fail()
    elif isinstance(error, GenerationError) or type(error) in (
        AtollError,
        NotReady,
        Unreached,
        Lost,
    ):
        server.circuit(model).fail()
