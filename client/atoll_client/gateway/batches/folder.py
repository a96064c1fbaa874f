"""The folder on disk: where everything lies, and how it is written so that nothing is lost.

    lock                    held by the gateway that uses the folder
    uploads/                files that are being received
    files/ID.json, ID.data  a file and its content
    batches/ID.json         a batch
    work/ID/                of an unfinished batch: input, output and error lines

A JSON file is written under another name, synchronized and renamed, so that a crash leaves the old
one or the new one. Names are made of ids, which are ours: nothing that a client sends is a path.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import orjson

from atoll_client.errors import AtollError, NotReady
from atoll_client.gateway.batches.answers import StoredBatch, StoredFile

logger = logging.getLogger(__name__)
S = TypeVar("S", StoredFile, StoredBatch)


class Folder:
    """A folder that this process has locked. Methods block, and raise OSError."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uploads, self._files = root / "uploads", root / "files"
        self._batches, self._work = root / "batches", root / "work"
        self._lock: Any = None

    def open(self) -> None:
        """Makes the folder and locks it.

        Raises:
            NotReady: another gateway uses it.
        """
        from filelock import FileLock, Timeout

        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(self.root / "lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise NotReady(
                f"another gateway uses the batch_folder {self.root}; files and batches are there"
            ) from None
        self._lock = lock
        for one in (self.uploads, self._files, self._batches, self._work):
            one.mkdir(exist_ok=True, mode=0o700)
        for left in self.uploads.iterdir():
            left.unlink()

    def close(self) -> None:
        """Lets another gateway use it."""
        if self._lock is not None:
            self._lock.release()

    def files(self) -> list[StoredFile]:
        """All files, the oldest first."""
        found = _records(self._files, StoredFile)
        return sorted((f for f in found if self.content(f.file["id"]).exists()), key=_order)

    def batches(self) -> list[StoredBatch]:
        """All batches, the oldest first."""
        return sorted(_records(self._batches, StoredBatch), key=_order)

    def content(self, file_id: str) -> Path:
        """The content of a file."""
        return self._files / f"{file_id}.data"

    def work(self, batch_id: str) -> Path:
        """Where an unfinished batch has its lines."""
        return self._work / batch_id

    def put_file(self, stored: StoredFile, content: Path) -> None:
        """Moves a content, which has been synchronized, here. It may have been moved already."""
        target = self.content(stored.file["id"])
        if content.exists():
            os.replace(content, target)
            synchronize(self._files)
        _write(self._files / f"{stored.file['id']}.json", stored)

    def drop_file(self, file_id: str) -> None:
        """Deletes a file."""
        (self._files / f"{file_id}.json").unlink(missing_ok=True)
        self.content(file_id).unlink(missing_ok=True)

    def begin_batch(self, stored: StoredBatch) -> None:
        """Writes a new batch, which keeps its input even if the file is deleted."""
        batch = stored.batch
        work = self.work(batch["id"])
        work.mkdir(mode=0o700)
        try:
            source = self.content(batch["input_file_id"])
            try:
                os.link(source, work / "input")
            except OSError:  # a file system without links
                shutil.copyfile(source, work / "input")
            synchronize(work)
            self.put_batch(stored)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise

    def put_batch(self, stored: StoredBatch) -> None:
        """Writes a batch as it is now."""
        _write(self._batches / f"{stored.batch['id']}.json", stored)

    def drop_batch(self, batch_id: str) -> None:
        """Forgets a batch."""
        (self._batches / f"{batch_id}.json").unlink(missing_ok=True)
        self.end_work(batch_id)

    def end_work(self, batch_id: str) -> None:
        """Deletes what only an unfinished batch needs."""
        shutil.rmtree(self.work(batch_id), ignore_errors=True)

    def clear(self, files: set[str], unfinished: set[str]) -> None:
        """Deletes what a crash has left: contents and work of other files and batches."""
        for content in self._files.glob("*.data"):
            if content.stem not in files:
                content.unlink()
        for work in self._work.iterdir():
            if work.name not in unfinished:
                shutil.rmtree(work, ignore_errors=True)


def synchronize(folder: Path) -> None:
    """Makes renames and new names of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """``with``: what the disk refuses is an error with a reason; logged, too."""
    try:
        yield
    except OSError as error:
        logger.error("%s: %s", what, error)
        raise AtollError(f"{what}: {error.strerror or type(error).__name__}") from error


def _order(stored: StoredFile | StoredBatch) -> int:
    return stored.order


def _write(path: Path, stored: StoredFile | StoredBatch) -> None:
    temporary = path.with_suffix(".new")
    try:
        with open(temporary, "wb") as file:
            file.write(orjson.dumps(asdict(stored)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    synchronize(path.parent)


def _records(folder: Path, kind: type[S]) -> Iterator[S]:
    for path in folder.glob("*.json"):
        try:
            yield kind(**orjson.loads(path.read_bytes()))
        except (ValueError, TypeError):
            # Renames leave no such file; it is kept for whoever looks into it.
            logger.error("%s is damaged, and left out", path)
