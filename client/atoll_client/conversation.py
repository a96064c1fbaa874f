"""A chat with history, which the server keeps between turns if it can.

If the server has a session entry for the generator and is reached over gRPC, a conversation is a
Triton sequence: a turn sends only its new text. Otherwise, or if the server has lost the
conversation, all messages are sent, and the server finds the KV blocks of earlier turns by their
contents.

The client always keeps the whole chat. After a turn that was not received completely, it is unknown
what the server has kept, so the next turn begins a new sequence with all messages.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from atoll_client.connection import Connection
from atoll_client.errors import AtollError, NotFound, NotReady, Unreached, UnsupportedModel
from atoll_client.sequences import Turn
from atoll_client.tasks import Prompt
from atoll_client.types import Chunk

Said = dict[str, Any]
Way = tuple[Prompt, Turn | None]


class AsyncConversation:
    """``say`` returns a complete answer, ``stream`` its pieces; both become part of the chat.

    Args:
        session: whether the server keeps the conversation: True requires it (UnsupportedModel if it
            cannot), False sends all messages each turn, None lets the server decide.

    Attributes:
        messages: the chat so far; may be changed between turns.
        uses_session: whether the last turn went to the session entry; None before the first.
    """

    def __init__(
        self, client: Connection, model: str | None, system: str | None, session: bool | None
    ) -> None:
        self._client, self._model, self._wanted = client, model, session
        self.messages: list[Said] = []
        self.uses_session: bool | None = None
        if system is not None:
            self.messages.append({"role": "system", "content": system})
        self._tools: Sequence[Said] | None = None
        self._key: str | None = None
        # The messages that the server certainly has; empty: none.
        self._kept: list[Said] = []

    async def __aenter__(self) -> AsyncConversation:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Frees what the server keeps; a later turn would send all messages again."""
        if self._key is not None:
            await self._client._sequences.end(self._key)
        self._key, self._kept = None, []

    async def say(self, text: str, **options: Any) -> str:
        """The answer to one more message."""
        return "".join([piece async for piece in self.stream(text, **options)])

    async def stream(
        self, text: str, *, tools: Sequence[Said] | None = None, **options: Any
    ) -> AsyncGenerator[str, None]:
        """The answer as it arrives; if the loop is left early, the part that was read is kept.

        Args:
            tools: what the model may call, in this turn and later ones.

        Raises:
            UnsupportedModel: the server keeps no conversations and ``session`` was True.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        options.setdefault("max_tokens", None)
        parts: list[str] = []
        is_whole = False
        try:
            async with contextlib.aclosing(self._answer(asked, tools, options)) as chunks:
                async for chunk in chunks:
                    parts.append(chunk.text)
                    is_whole = bool(chunk.finish_reason)
                    yield chunk.text
        finally:
            if parts:
                self.messages = [*asked, {"role": "assistant", "content": "".join(parts)}]
            if is_whole and self.uses_session:
                self._kept = list(self.messages)

    async def _answer(
        self, asked: list[Said], tools: Sequence[Said] | None, options: dict[str, Any]
    ) -> AsyncGenerator[Chunk, None]:
        """Tries the ways in turn; the next one only if the server has lost the conversation."""
        ways = await self._ways(asked, tools)
        self._kept = []
        for number, (prompt, turn) in enumerate(ways, 1):
            has_begun = False
            answer = self._client._chunks(prompt, self._model, options, True, turn)
            try:
                async with contextlib.aclosing(answer) as chunks:
                    async for chunk in chunks:
                        has_begun, self.uses_session = True, turn is not None
                        yield chunk
                return
            except AtollError as error:
                if has_begun or number == len(ways) or not _is_lost(error):
                    raise

    async def _ways(self, asked: list[Said], tools: Sequence[Said] | None) -> list[Way]:
        """What can be sent, the shortest first: only the new messages, or all of them."""
        self._tools = tools or self._tools
        everything = Prompt(messages=asked, tools=self._tools)
        entry = None
        if self._wanted is not False:
            entry = await self._client._session_entry(self._model)
        if entry is None:
            if self._wanted:
                raise UnsupportedModel(
                    f"session is True; no session entry of {self._model or 'a generator'} is "
                    "within reach: the server has none, or the address is an http:// one"
                )
            return [(everything, None)]
        await self._client._sequences.end_ownerless()
        if self._key is None:
            self._key = self._client._sequences.key_for(self, entry)
        ways: list[Way] = [(everything, Turn(entry, self._key, is_start=True))]
        num_kept = len(self._kept)
        if num_kept and asked[:num_kept] == self._kept:
            new = Prompt(messages=asked[num_kept:], tools=tools)
            ways.insert(0, (new, Turn(entry, self._key)))
        if self._wanted is None:
            ways.append((everything, None))
        return ways


def _is_lost(error: AtollError) -> bool:
    """Whether only the sequence, or the entry that keeps it, is gone."""
    # The messages of Triton and of the entry for an unknown sequence; their codes differ.
    if "START flag" in str(error) or "begin it with START" in str(error):
        return True
    return isinstance(error, NotFound | NotReady) and not isinstance(error, Unreached)
