"""Vectors of long lists through shared memory of a client and a server on the same machine.

The server writes each part's vectors to their place instead of copying them into messages. It has
to allow this: ``atoll serve --allow-shared-memory``.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from multiprocessing.shared_memory import SharedMemory
from typing import TYPE_CHECKING

import numpy as np

from atoll_client.errors import AtollError, UnsupportedModel
from atoll_client.kserve import Message
from atoll_client.types import Floats

if TYPE_CHECKING:
    from atoll_client.transport import Transport

_FLOAT = 4


class Region:
    """Shared memory for (rows, width) float32, registered with the server as ``name``."""

    def __init__(self, memory: SharedMemory, rows: int, width: int) -> None:
        self.name, self.bytes = memory.name, rows * width * _FLOAT
        self._memory, self._shape = memory, (rows, width)

    def fill(self, message: Message, rows: Sequence[int]) -> Message:
        """Makes a request write its vectors to these consecutive rows."""
        output = message.outputs.add(name="embedding")
        size = self._shape[1] * _FLOAT
        output.parameters["shared_memory_region"].string_param = self.name
        output.parameters["shared_memory_offset"].int64_param = rows[0] * size
        output.parameters["shared_memory_byte_size"].int64_param = len(rows) * size
        return message

    def vectors(self) -> Floats:
        """A copy, (rows, width), which outlives the region."""
        view: Floats = np.ndarray(self._shape, np.float32, self._memory.buf)
        return view.copy()


@contextlib.asynccontextmanager
async def region(
    transport: Transport, rows: int, width: int, timeout_s: float
) -> AsyncIterator[Region]:
    """A region that is registered with the server within the block.

    Raises:
        UnsupportedModel: the server does not allow it, or is on another machine.
    """
    memory = SharedMemory(create=True, size=max(rows * width * _FLOAT, 1))
    try:
        found = Region(memory, rows, width)
        try:
            await transport.share(found.name, found.bytes, timeout_s)
        except AtollError as error:
            raise UnsupportedModel(
                f"no shared memory with this server ({error}); it must run on this machine, "
                "started with --allow-shared-memory"
            ) from error
        try:
            yield found
        finally:
            with contextlib.suppress(AtollError):
                await transport.unshare(found.name, timeout_s)
    finally:
        memory.close()
        memory.unlink()
