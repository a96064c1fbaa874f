"""The server's log, from its end on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

_LOOK_S = 0.3
MAX_LINES = 100_000


def names(path: Path, model: str) -> bool:
    """Whether a line of the log names a model."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return any(model in line for line in file)


async def log_lines(
    path: Path, num_lines: int, model: str, is_following: bool
) -> AsyncIterator[str]:
    """The last lines, and those that come after them if they are followed.

    model: only lines that name it; "": all. A log that begins anew, as the server is started again,
    is read from its beginning.
    """
    position, inode = 0, None
    first: deque[str] = deque(maxlen=num_lines)
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            first.extend(line for line in file if model in line)
            position, inode = file.tell(), path.stat().st_ino
    for line in first:
        yield line
    rest = ""
    while is_following:
        await asyncio.sleep(_LOOK_S)
        if not path.is_file():
            continue
        found = path.stat()
        if found.st_ino != inode or found.st_size < position:
            position, inode, rest = 0, found.st_ino, ""
        if found.st_size == position:
            continue
        with path.open("rb") as raw:
            raw.seek(position)
            read = raw.read()
            position = raw.tell()
        *lines, rest = (rest + read.decode("utf-8", "replace")).split("\n")
        for line in lines:
            if model in line:
                yield f"{line}\n"
