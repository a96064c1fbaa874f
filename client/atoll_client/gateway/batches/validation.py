"""The first step of a batch: its file is checked, and the batch begins or has failed."""

from __future__ import annotations

import asyncio
import time

from atoll_client.errors import NotReady
from atoll_client.gateway.batches import lines
from atoll_client.gateway.batches.answers import StoredBatch
from atoll_client.gateway.batches.publish import insist
from atoll_client.gateway.core.context import Context

# The task of the model that an endpoint asks. Moderations take OpenAI's names of models, too.
_TASKS = {
    "/v1/chat/completions": "generate", "/v1/completions": "generate",
    "/v1/responses": "generate", "/v1/embeddings": "embed",
}  # fmt: skip


async def validate(context: Context, stored: StoredBatch) -> None:
    """Checks a batch's file. The batch may be cancelled meanwhile, which holds."""
    store, settings, batch = context.batches, context.settings, stored.batch
    task = _TASKS.get(batch["endpoint"])

    def find_model(name: str | None) -> None:
        try:
            if task is not None:
                context.models.find((stored.path_model, name), (task,))
        except NotReady:
            # It will be asked again and again.
            return

    found = await insist(
        lambda: asyncio.to_thread(
            lines.check, store.folder.work(batch["id"]) / "input", batch["endpoint"],
            settings.max_batch_lines, settings.payload_limit, find_model,
        )
    )  # fmt: skip
    now = int(time.time())
    counts = {"total": found.num_lines, "completed": 0, "failed": 0}
    if found.errors:
        change = {
            "status": "failed", "failed_at": now, "model": found.model,
            "errors": {"object": "list", "data": found.errors},
        }  # fmt: skip
    else:
        change = {
            "status": "in_progress", "in_progress_at": now, "model": found.model,
            "request_counts": counts,
        }  # fmt: skip
    await insist(lambda: store.save(stored, when=("validating",), **change))
    if stored.is_finished:
        store.folder.end_work(batch["id"])
