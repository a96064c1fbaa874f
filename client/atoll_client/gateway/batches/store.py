"""The files and batches that this gateway keeps, by id, and what may be added to them.

They are in memory as well as on disk. A change is written first, and then made. ``open`` locks the
folder; until there is something in it, nothing is made on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Container, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from atoll_client.errors import NoRoom, NotFound
from atoll_client.gateway.batches.answers import (
    UNFINISHED,
    Batch,
    FileObject,
    StoredBatch,
    StoredFile,
)
from atoll_client.gateway.batches.folder import Folder, explained
from atoll_client.gateway.core.settings import GatewaySettings

logger = logging.getLogger(__name__)
T = TypeVar("T")

# What turns the setting off where a launcher has a folder by default.
NO_FOLDER = "none"


class Batches:
    """Files and batches of every owner. Call from one event loop.

    Attributes:
        changed: is set when there is something new to do for who runs batches.
        num_lines: lines that were answered, by what became of them. num_running: at work now.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        name = settings.batch_folder
        self._folder = None if name in ("", NO_FOLDER) else Folder(Path(name).expanduser())
        self._lock = asyncio.Lock()
        self._is_open = False
        self._sizes: dict[str, int] = {}
        self.files: dict[str, StoredFile] = {}
        self.batches: dict[str, StoredBatch] = {}
        self.changed = asyncio.Event()
        self.num_lines = {"completed": 0, "failed": 0}
        self.num_running = 0

    @property
    def folder(self) -> Folder:
        """Where they lie.

        Raises:
            NotFound: the setting names none.
        """
        if self._folder is None:
            raise NotFound(
                "files and batches are not kept here: the setting batch_folder names no folder",
                code="not_configured",
            )
        return self._folder

    @property
    def is_configured(self) -> bool:
        """Whether the setting names a folder."""
        return self._folder is not None

    @property
    def is_waiting(self) -> bool:
        """Whether there may be batches on disk that were not looked for yet."""
        return not self._is_open and self._folder is not None and self._folder.root.exists()

    async def open(self) -> None:
        """Locks the folder and reads it, once.

        Raises:
            NotFound: the setting names none. NotReady: another gateway uses it.
            AtollError: it cannot be read or written.
        """
        folder = self.folder
        if self._is_open:
            return
        async with self._lock:
            if self._is_open:
                return
            with explained(f"the batch_folder {folder.root} cannot be used"):
                await asyncio.to_thread(folder.open)
                files, batches = await asyncio.to_thread(_read, folder)
            self.files = {one.file["id"]: one for one in files}
            self.batches = {one.batch["id"]: one for one in batches}
            self._is_open = True
            self.changed.set()

    def close(self) -> None:
        """Lets another gateway use the folder."""
        if self._is_open and self._folder is not None:
            self._folder.close()

    def check_room(self, num_bytes: int) -> None:
        """Raises NoRoom: with another file of this size, there would be too many.

        The message does not say how much is kept, which would tell a key about the others.
        """
        settings = self._settings
        if len(self.files) >= settings.max_batch_files:
            raise NoRoom(
                f"there is no room for another file: max_batch_files is "
                f"{settings.max_batch_files}, for the files of all keys; delete some"
            )
        held = sum(one.file["bytes"] for one in self.files.values()) + sum(self._sizes.values())
        if held + num_bytes > settings.max_batch_bytes:
            raise NoRoom(
                f"there is no room for another {num_bytes} bytes: max_batch_bytes is "
                f"{settings.max_batch_bytes}, for files and unfinished batches of all keys; "
                "delete some"
            )

    def hold(self, batch_id: str, num_bytes: int) -> None:
        """Counts the bytes of an unfinished batch's lines; 0: it has ended."""
        if num_bytes:
            self._sizes[batch_id] = num_bytes
        else:
            self._sizes.pop(batch_id, None)

    async def add_file(
        self,
        owner: str,
        content: Path,
        filename: str,
        lifetime_s: int,
        purpose: Literal["batch", "batch_output"] = "batch",
        file_id: str = "",
    ) -> FileObject:
        """Keeps a file whose content has been synchronized. Moves the content."""
        now = int(time.time())
        file_id = file_id or f"file-{secrets.token_hex(12)}"
        where = content if content.exists() else self.folder.content(file_id)
        file: FileObject = {
            "id": file_id, "object": "file", "bytes": where.stat().st_size, "created_at": now,
            "expires_at": now + lifetime_s, "filename": filename, "purpose": purpose,
            "status": "processed", "status_details": None,
        }  # fmt: skip
        stored = StoredFile(owner, time.time_ns(), file)
        await self._change(lambda: self.folder.put_file(stored, content))
        self.files[file["id"]] = stored
        return file

    async def drop_file(self, file_id: str) -> None:
        """Deletes a file. Batches that use it keep what they need."""
        await self._change(lambda: self.folder.drop_file(file_id))
        self.files.pop(file_id, None)

    async def add_batch(
        self, owner: str, path_model: str | None, batch: Batch, output_s: int | None
    ) -> None:
        """Queues a batch. output_s: how long its files are kept, if not as long as others.

        Raises:
            NoRoom: there are too many files, or unfinished batches.
        """
        settings = self._settings
        self.check_room(self.files[batch["input_file_id"]].file["bytes"])
        await self._make_room(owner)
        kept_s = settings.batch_file_s if output_s is None else output_s
        stored = StoredBatch(owner, time.time_ns(), path_model, kept_s, batch)
        await self._change(lambda: self.folder.begin_batch(stored))
        self.batches[batch["id"]] = stored
        self.changed.set()

    async def _make_room(self, owner: str) -> None:
        """Forgets finished batches, the owner's oldest first, until another one may be kept."""
        most = self._settings.max_batch_files
        while len(self.batches) >= most:
            finished = (one for one in self.batches.values() if one.is_finished)
            oldest = min(finished, key=lambda one: (one.owner != owner, one.order), default=None)
            if oldest is None:
                raise NoRoom(
                    f"there is no room for another batch: max_batch_files is {most}, for the "
                    "unfinished batches of all keys; cancel some, or wait for their end"
                )
            await self._forget(oldest)

    async def _forget(self, stored: StoredBatch) -> None:
        """Deletes a batch, but not its files."""
        name = stored.batch["id"]
        await self._change(lambda: self.folder.drop_batch(name))
        self.batches.pop(name, None)

    async def save(self, stored: StoredBatch, *, when: Container[str], **changes: Any) -> bool:
        """Changes a batch, first on disk, then in memory; False: its status is not in ``when``."""

        async def change() -> bool:
            async with self._lock:
                if stored.batch["status"] not in when:
                    return False
                new: Any = {**stored.batch, **changes}
                with explained("the batch_folder cannot be written"):
                    await asyncio.to_thread(self.folder.put_batch, replace(stored, batch=new))
                stored.batch.update(changes)  # type: ignore[typeddict-item]
                return True

        return await whole(change())

    async def fail(self, stored: StoredBatch, message: str) -> None:
        """Ends a batch that cannot go on."""
        error = {"code": "server_error", "line": None, "message": message, "param": None}
        await self.save(
            stored, when=UNFINISHED, status="failed", failed_at=int(time.time()),
            errors={"object": "list", "data": [error]},
        )  # fmt: skip
        self.hold(stored.batch["id"], 0)

    async def expire(self) -> None:
        """Deletes files that have expired, and batches as long after their end as files."""
        now = time.time()
        for one in [*self.files.values()]:
            if (one.file["expires_at"] or now + 1) <= now:
                await self.drop_file(one.file["id"])
        oldest = now - self._settings.batch_file_s
        for batch in [*self.batches.values()]:
            if batch.is_finished and batch.batch["expires_at"] < oldest:
                await self._forget(batch)

    async def _change(self, write: Callable[[], None]) -> None:
        """Writes on a thread; a client that leaves does not leave half a change."""

        async def change() -> None:
            async with self._lock:
                with explained("the batch_folder cannot be written"):
                    await asyncio.to_thread(write)

        await whole(change())

    def metric_lines(self) -> Iterator[str]:
        """The lines of /metrics."""
        states = [one.batch["status"] for one in self.batches.values() if not one.is_finished]
        yield "# TYPE atoll_gateway_batches gauge"
        for state in ("validating", "in_progress", "finalizing", "cancelling"):
            yield f'atoll_gateway_batches{{status="{state}"}} {states.count(state)}'
        yield "# TYPE atoll_gateway_batch_lines_running gauge"
        yield f"atoll_gateway_batch_lines_running {self.num_running}"
        yield "# TYPE atoll_gateway_batch_lines_total counter"
        for result, count in self.num_lines.items():
            yield f'atoll_gateway_batch_lines_total{{result="{result}"}} {count}'


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """The result of work that goes on to its end even if the caller is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await task
        raise


def _read(folder: Folder) -> tuple[list[StoredFile], list[StoredBatch]]:
    files, batches = folder.files(), folder.batches()
    names = {one.file["id"] for one in files}
    unfinished = [one for one in batches if not one.is_finished]
    for one in unfinished:
        names |= set((one.outputs or {}).values())
    folder.clear(names, {one.batch["id"] for one in unfinished})
    return files, batches
