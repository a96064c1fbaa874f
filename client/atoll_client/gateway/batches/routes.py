"""POST and GET /v1/batches, one of them, and its end before its time."""

from __future__ import annotations

import secrets
import time

from atoll_client.errors import NotFound, ValidationError
from atoll_client.gateway.batches.answers import Batch, BatchList, StoredBatch, no_usage
from atoll_client.gateway.batches.files import file_of, page
from atoll_client.gateway.batches.schemas import BatchBody, BatchesQuery
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.queries import NoQuery, read_query
from atoll_client.gateway.core.web import Reply, Request, reply

_WINDOW_S = 86_400


async def create(request: Request, context: Context, body: BatchBody) -> Reply[Batch]:
    """Queues the requests of a file."""
    await context.batches.open()
    owner = context.keys.owner(request.headers)
    found = file_of(context, owner, body.input_file_id, "input_file_id")
    if found.file["purpose"] != "batch":
        raise ValidationError.of(
            "input_file_id", f"is a file of purpose {found.file['purpose']!r}; expected 'batch'"
        )
    batch, kept = _new(body), body.output_expires_after
    await context.batches.add_batch(
        owner, request.model, batch, None if kept is None else kept.seconds
    )
    return reply(batch)


async def batches(request: Request, context: Context, body: None) -> Reply[BatchList]:
    """A page of the batches."""
    query = read_query(request, BatchesQuery)
    await context.batches.open()
    owner = context.keys.owner(request.headers)
    stored = reversed(context.batches.batches.values())
    shown, has_more = page([one.batch for one in stored if one.owner == owner], query)
    answer: BatchList = {
        "object": "list", "data": shown, "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None, "has_more": has_more,
    }  # fmt: skip
    return reply(answer)


async def retrieve(request: Request, context: Context, body: None) -> Reply[Batch]:
    """A batch as it is now."""
    return reply((await _found(request, context)).batch)


async def cancel(request: Request, context: Context, body: None) -> Reply[Batch]:
    """Ends a batch; what has been answered is kept."""
    stored = await _found(request, context)
    is_cancelled = await context.batches.save(
        stored, when=("validating", "in_progress"), status="cancelling",
        cancelling_at=int(time.time()),
    )  # fmt: skip
    status = stored.batch["status"]
    if not is_cancelled and status != "cancelling":
        raise ValidationError(f"Cannot cancel a batch with status '{status}'.")
    context.batches.changed.set()
    return reply(stored.batch)


async def _found(request: Request, context: Context) -> StoredBatch:
    read_query(request, NoQuery)
    await context.batches.open()
    name = request.path_params["batch_id"]
    found = context.batches.batches.get(name)
    if found is None or found.owner != context.keys.owner(request.headers):
        raise NotFound(
            f"No batch found with id '{name:.100}'.", param="batch_id", code="batch_not_found"
        )
    return found


def _new(body: BatchBody) -> Batch:
    now = int(time.time())
    return {
        "id": f"batch_{secrets.token_hex(12)}", "object": "batch", "endpoint": body.endpoint,
        "model": None, "errors": None, "input_file_id": body.input_file_id,
        "completion_window": body.completion_window, "status": "validating",
        "output_file_id": None, "error_file_id": None, "created_at": now, "in_progress_at": None,
        "expires_at": now + _WINDOW_S, "finalizing_at": None, "completed_at": None,
        "failed_at": None, "expired_at": None, "cancelling_at": None, "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0}, "usage": no_usage(),
        "metadata": body.metadata,
    }  # fmt: skip
