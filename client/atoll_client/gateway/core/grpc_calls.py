"""What all gRPC calls have in common: keys, admission, metrics, and errors as statuses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from atoll_client.errors import Asleep, AtollError, MalformedRequest, TooLarge
from atoll_client.gateway.core.clients import peer_of
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.sse import ending
from atoll_client.gateway.core.web import Request

logger = logging.getLogger(__name__)

_CODES = {
    "validation": grpc.StatusCode.INVALID_ARGUMENT,
    "empty": grpc.StatusCode.INVALID_ARGUMENT,
    "backend": grpc.StatusCode.FAILED_PRECONDITION,
    "generation": grpc.StatusCode.FAILED_PRECONDITION,
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unhealthy": grpc.StatusCode.UNAVAILABLE,
    "authentication": grpc.StatusCode.UNAUTHENTICATED,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "timeout": grpc.StatusCode.DEADLINE_EXCEEDED,
    "cancelled": grpc.StatusCode.CANCELLED,
}
CodeOf = Callable[[AtollError], grpc.StatusCode]


def code_of(error: AtollError) -> grpc.StatusCode:
    """The status of an error in TEI's services."""
    if isinstance(error, TooLarge):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return _CODES.get(error.error_type, grpc.StatusCode.INTERNAL)


def read_message(kind: Any, limit: int, raw: bytes) -> Any:
    """A client's message.

    Raises:
        TooLarge: it has more than ``limit`` bytes. MalformedRequest: it cannot be parsed.
    """
    if len(raw) > limit:
        raise TooLarge(f"the message has {len(raw)} bytes; the limit is {limit}")
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise MalformedRequest(f"the message cannot be read: {error}") from None


@contextlib.asynccontextmanager
async def answered(
    context: Context,
    path: str,
    call: Any,
    dialect: str = "tei",
    labels: Mapping[str, str] | None = None,
    code: CodeOf = code_of,
    is_counted: bool = True,
) -> AsyncIterator[Request]:
    """``with``: one gRPC call. Errors end it with their status.

    is_counted: it counts as one request; otherwise, each of its messages does.
    """
    pairs = [(k.encode(), v.encode()) for k, v in call.invocation_metadata() if isinstance(v, str)]
    scope = {
        "type": "http", "method": "POST", "path": path, "headers": pairs,
        "client": peer_of(call.peer()),
    }  # fmt: skip
    request = Request(scope)
    request.route, request.dialect, request.labels = path, dialect, {**(labels or {})}
    request.model = request.headers.get("model")
    status = 499
    with context.tracer.span(request) as span:
        try:
            context.keys.check(request.headers)
            request.client_name = context.clients.name(request)
            if is_counted:
                context.client_limits.admit(request)
            counted = context.admission.admitted(request.client_name, 1 if is_counted else 0)
            with context.open_requests.answering(), counted:
                yield request
            status = 200
        except asyncio.CancelledError:
            if not context.open_requests.have_been_ended:
                raise
            error = ending()
            status = error.http_status
            request.labels["error"] = error.error_type
            await call.abort(code(error), str(error))
        except AtollError as error:
            if isinstance(error, Asleep):
                context.sleepers.begin(error.model)
            status = error.http_status
            request.labels["error"] = error.error_type
            await call.abort(code(error), str(error))
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            status = 500
            logger.exception("request %s: %s", request.request_id, path)
            await call.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
        finally:
            context.client_limits.ended(request)
            span.end(request, status)
            context.metrics.finished(request, status)
            context.request_log.finished(request, status)
