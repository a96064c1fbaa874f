"""The answers of a running batch: appended to two files, and synchronized together.

Lines that come while others are being written are written next, all at once. Only whole lines
count: what a crash or a full disk has left behind the last one is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from atoll_client.gateway.batches.answers import add_usage, no_usage

logger = logging.getLogger(__name__)

OUTPUT, ERROR = "output", "error"
# Answers that wait until the disk has taken those before; more would only cost memory.
_MAX_PENDING_BYTES = 16_000_000
# From one write to the next: an answer may be computed again after a crash, which costs less than
# a synchronization for each.
_WRITE_S = 0.05
_FULL_S = 5.0


class Results:
    """Two files of lines in a folder.

    Attributes:
        answered: ids of the requests that have a line. num_completed, num_failed, usage: of these.
    """

    def __init__(self, folder: Path, on_written: Callable[[], None]) -> None:
        self._folder, self._on_written = folder, on_written
        self._files: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._pending: list[tuple[str, bytes, Any]] = []
        self._num_pending_bytes = 0
        self._has_room, self._has_lines = asyncio.Event(), asyncio.Event()
        self._has_room.set()
        self._written = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self.answered: set[str] = set()
        self.num_completed = self.num_failed = 0
        self.usage = no_usage()

    @property
    def num_bytes(self) -> int:
        """Of both files."""
        return sum(self._sizes.values())

    async def open(self) -> None:
        """Reads what was answered before, and repairs the ends. Raises OSError."""
        await asyncio.to_thread(self._open)
        self._task = asyncio.create_task(self._write_all())

    async def add(self, kind: str, custom_id: str, line: bytes, body: Any) -> None:
        """Adds a line; body: of the answer, for its usage. Waits while the disk is behind."""
        await self._has_room.wait()
        self.answered.add(custom_id)
        self._pending.append((kind, line, body))
        self._num_pending_bytes += len(line)
        if self._num_pending_bytes >= _MAX_PENDING_BYTES:
            self._has_room.clear()
        self._has_lines.set()

    async def flush(self) -> None:
        """Returns once every line is on disk."""
        async with self._written:
            await self._written.wait_for(lambda: not self._pending)

    async def close(self) -> None:
        """Writes what is left, unless the disk is full, and closes the files."""
        if self._task is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.flush(), _FULL_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}

    async def _write_all(self) -> None:
        while True:
            await self._has_lines.wait()
            lines = list(self._pending)
            # The thread cannot be cancelled, and must not write into a closed file.
            write = asyncio.ensure_future(asyncio.to_thread(self._write, lines))
            try:
                await asyncio.shield(write)
            except asyncio.CancelledError:
                await asyncio.gather(write, return_exceptions=True)
                raise
            except OSError as error:
                logger.error("answers of batches cannot be written, and wait: %s", error)
                await asyncio.sleep(_FULL_S)
                continue
            del self._pending[: len(lines)]
            self._num_pending_bytes = sum(len(line) for _, line, _ in self._pending)
            if self._num_pending_bytes < _MAX_PENDING_BYTES:
                self._has_room.set()
            if not self._pending:
                self._has_lines.clear()
            for kind, _, body in lines:
                self._count(kind, body)
            self._on_written()
            async with self._written:
                self._written.notify_all()
            await asyncio.sleep(_WRITE_S)

    def _count(self, kind: str, body: Any) -> None:
        if kind == OUTPUT:
            self.num_completed += 1
            add_usage(self.usage, body)
        else:
            self.num_failed += 1

    def _write(self, lines: list[tuple[str, bytes, Any]]) -> None:
        """All of the lines, or none of them."""
        data = {kind: b"".join(one for of, one, _ in lines if of == kind) for kind in self._files}
        try:
            for kind, descriptor in self._files.items():
                left = memoryview(data[kind])
                while left:
                    left = left[os.write(descriptor, left) :]
            for kind, descriptor in self._files.items():
                if data[kind]:
                    os.fsync(descriptor)
        except OSError:
            for kind, descriptor in self._files.items():
                os.ftruncate(descriptor, self._sizes[kind])
            raise
        for kind in self._files:
            self._sizes[kind] += len(data[kind])

    def _open(self) -> None:
        for kind in (OUTPUT, ERROR):
            path = self._folder / kind
            self._files[kind] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            self._sizes[kind] = self._read(kind, path)
            os.ftruncate(self._files[kind], self._sizes[kind])

    def _read(self, kind: str, path: Path) -> int:
        """Counts whole lines; returns where they end."""
        size = 0
        with open(path, "rb") as file:
            for line in file:
                try:
                    found = orjson.loads(line)
                    custom_id = found["custom_id"]
                except (ValueError, TypeError, KeyError):
                    break
                if not line.endswith(b"\n"):
                    break
                size += len(line)
                self.answered.add(custom_id)
                self._count(kind, (found["response"] or {}).get("body"))
        return size
