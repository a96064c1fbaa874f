"""What every model reports of its requests to Triton's /metrics; conversations report only this."""

from __future__ import annotations

from typing import Generic, TypeVar

from atoll.errors import Cancelled
from atoll.serving.requests.served_request import ServedRequest
from atoll.serving.triton.metrics import Metrics

R = TypeVar("R", bound=ServedRequest)


class RequestMetrics(Generic[R]):
    """Counts how requests end, except for canaries. Any thread may call."""

    def __init__(self, model: str) -> None:
        self._metrics = Metrics(model)

    def close(self) -> None:
        """Reports the last updates."""
        self._metrics.close()

    def refused(self, error: BaseException) -> None:
        """A request has failed, or was not accepted."""
        kind = getattr(error, "error_type", "internal")
        self._metrics.count(f"atoll_requests_failed_{kind}_total", f"requests ended by: {kind}")

    def opened(self, request: R) -> None:
        """A request was accepted."""

    def closed(self, request: R) -> None:
        """A request has had its last response."""
        if request.sender.is_canary:
            return
        count = self._metrics.count
        if request.error is None:
            count("atoll_requests_succeeded_total", "requests answered in full")
        elif getattr(request.error, "error_type", "") == Cancelled.error_type:
            count("atoll_requests_cancelled_total", "requests whose client went away")
        else:
            self.refused(request.error)
