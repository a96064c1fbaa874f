"""The last step of a batch: its answers and errors become files, and its status the last one.

Each part can be done again: the files' ids are written before the files are moved.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from atoll_client.errors import AtollError
from atoll_client.gateway.batches.answers import Status, StoredBatch
from atoll_client.gateway.batches.results import ERROR, OUTPUT
from atoll_client.gateway.batches.store import Batches

logger = logging.getLogger(__name__)
T = TypeVar("T")

_AGAIN_S = 5.0


async def publish(store: Batches, stored: StoredBatch, final: Status) -> None:
    """Ends a batch whose lines are all on disk."""
    batch = stored.batch
    work = store.folder.work(batch["id"])
    now = int(time.time())
    if stored.outputs is None:
        sizes = {kind: (work / kind).stat().st_size for kind in (OUTPUT, ERROR)}
        stored.outputs = {
            kind: f"file-{secrets.token_hex(12)}" for kind, size in sizes.items() if size
        }
        status = "finalizing" if final == "completed" else batch["status"]
        began = {"finalizing_at": now} if final != "cancelled" else {}
        await insist(lambda: store.save(stored, when=(batch["status"],), status=status, **began))
    for kind, file_id in stored.outputs.items():
        # It may have been moved before, by a process that ended then.
        is_moved = file_id in store.files
        if not is_moved and (work / kind).exists() or store.folder.content(file_id).exists():
            await insist(
                lambda kind=kind, file_id=file_id: store.add_file(  # type: ignore[misc]
                    stored.owner, work / kind, f"{batch['id']}_{kind}.jsonl", stored.output_s,
                    "batch_output", file_id,
                )
            )  # fmt: skip
    ended: dict[str, Any] = {
        "status": final, f"{final}_at": now, "output_file_id": stored.outputs.get(OUTPUT),
        "error_file_id": stored.outputs.get(ERROR),
    }  # fmt: skip
    await insist(lambda: store.save(stored, when=(batch["status"],), **ended))
    store.hold(batch["id"], 0)
    store.folder.end_work(batch["id"])


async def insist(step: Callable[[], Awaitable[T]]) -> T:
    """The result of a step that is tried until the disk has room for it."""
    while True:
        try:
            return await step()
        except (OSError, AtollError) as error:
            logger.error("a batch waits, since its folder cannot be used: %s", error)
            await asyncio.sleep(_AGAIN_S)
