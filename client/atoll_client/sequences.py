"""Triton sequences for conversations: begun, continued, and always ended.

A server holds a limited number of sequences, so one whose owner no longer exists is ended at the
next turn of another one, or when the client is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
import weakref
from collections import deque
from dataclasses import dataclass

from atoll_client import kserve
from atoll_client.errors import AtollError
from atoll_client.kserve import Message
from atoll_client.transport import Transport

# If the server does not receive the end, it ends the sequence itself after some idle minutes.
_END_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Turn:
    """One request of a sequence. entry: the model it is sent to. key: the correlation id."""

    entry: str
    key: str
    is_start: bool = False
    is_end: bool = False

    def mark(self, message: Message) -> None:
        """Makes a generator's request this turn of the sequence."""
        message.model_name = self.entry
        message.parameters["sequence_id"].string_param = self.key
        message.parameters["sequence_start"].bool_param = self.is_start
        message.parameters["sequence_end"].bool_param = self.is_end


class Sequences:
    """The open sequences of one connection."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._open: dict[str, str] = {}
        self._ownerless: deque[str] = deque()

    def key_for(self, owner: object, entry: str) -> str:
        """A new correlation id; the sequence is ended some time after its owner is deleted."""
        key = uuid.uuid4().hex
        self._open[key] = entry
        weakref.finalize(owner, self._ownerless.append, key).atexit = False
        return key

    async def end(self, key: str) -> None:
        """Frees what the server keeps for a sequence, which may already have ended."""
        entry = self._open.pop(key, None)
        if entry is None:
            return
        message = kserve.request(entry)
        Turn(entry, key, is_end=True).mark(message)
        with contextlib.suppress(AtollError):
            responses = self._transport.responses(message, _END_TIMEOUT_S)
            async with contextlib.aclosing(responses):
                async for _ in responses:
                    continue

    async def end_ownerless(self) -> None:
        """Ends the sequences whose owners were deleted."""
        keys = [self._ownerless.popleft() for _ in range(len(self._ownerless))]
        await asyncio.gather(*map(self.end, keys))

    async def end_all(self) -> None:
        """Ends all sequences."""
        await asyncio.gather(*map(self.end, list(self._open)))
