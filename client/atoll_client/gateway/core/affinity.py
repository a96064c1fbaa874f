"""Which server gets a request: the one whose prefix cache may know its prompt, unless it is busy.

Requests of a session, or with the same beginning, go to the same server by rendezvous hashing: the
server whose hash with the key is the greatest. When servers come or go, only their own keys move.
The load is bounded (Mirrokni et al., arXiv:1608.01350): a server with more than ``max_load`` times
the mean of open requests gets no more of them. A key that had to move stays where it went.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from atoll_client.gateway.core.server import Server
from atoll_client.kserve import Message
from atoll_client.tasks import Prompt

# Of a prompt's beginning: 4 to 16 blocks of a prefix cache.
_MAX_CHARACTERS, _MAX_TOKENS = 1024, 256
_MAX_PLACES = 100_000
# Bytes of messages that are read for their beginning; longer ones are cut where they are.
_MAX_PARSED = 100_000
_FIRST_ROLES = ("system", "developer")


@dataclass(frozen=True)
class Origin:
    """Where a generation comes from. session: as the client names it; "" if it does not.

    prompt: read only if the session does not decide.
    """

    session: str
    prompt: Callable[[], Prompt]


class Affinity:
    """Orders servers. mode, max_load: the settings ``affinity`` and ``affinity_max_load``.

    Outcomes: hit (the key's server is first), moved (it is busy), none (there is no key).
    """

    def __init__(self, mode: str, max_load: float) -> None:
        self._mode, self._max_load = mode, max_load
        # Keys whose server is not the one of their hash, the oldest first.
        self._places: OrderedDict[bytes, str] = OrderedDict()
        # The servers of sequences.
        self._pins: OrderedDict[bytes, str] = OrderedDict()

    def key(self, model: str, origin: Origin | None) -> bytes | None:
        """None: the request may go anywhere."""
        if origin is None or self._mode == "none":
            return None
        if origin.session:
            return _digest(b"session", model.encode(), origin.session.encode())
        if self._mode == "session":
            return None
        return _digest(b"prompt", model.encode(), beginning(origin.prompt()))

    def order(self, key: bytes | None, servers: Sequence[Server]) -> tuple[list[Server], str]:
        """The servers, in the order in which they are tried, and the outcome for metrics."""
        by_load = sorted(servers, key=load)
        if key is None or len(servers) < 2:
            return by_load, "none"
        limit = self._max_load * sum(map(load, servers)) / len(servers) + 1
        ranked = ranked_by(key, servers)
        place = self._places.get(key)
        first = next((server for server in ranked if server.address == place), ranked[0])
        chosen = next(
            (server for server in (first, *ranked) if server.num_outstanding < limit), by_load[0]
        )
        self._places.pop(key, None)
        if chosen is not ranked[0]:
            _keep(self._places, key, chosen)
        by_load.remove(chosen)
        return [chosen, *by_load], "hit" if chosen is first else "moved"

    def pinned(self, sequence: str, servers: Sequence[Server]) -> list[Server]:
        """The servers for a sequence, whose state one has: that one first, however busy it is."""
        key = sequence.encode()
        ranked = ranked_by(key, servers)
        place = self._pins.pop(key, None)
        first = next((server for server in ranked if server.address == place), ranked[0])
        _keep(self._pins, key, first)
        ranked.remove(first)
        return [first, *ranked]


def _keep(places: OrderedDict[bytes, str], key: bytes, server: Server) -> None:
    places[key] = server.address
    if len(places) > _MAX_PLACES:
        places.popitem(last=False)


def ranked_by(key: bytes, servers: Sequence[Server]) -> list[Server]:
    """The servers in the key's own order (highest random weight)."""
    return sorted(servers, key=lambda server: _digest(server.address.encode(), key), reverse=True)


def beginning(prompt: Prompt) -> bytes:
    """What a conversation's later prompts begin with, too: all up to its first question.

    Each part is cut, so that conversations with one long system prompt are told apart.
    """
    if prompt.messages is not None:
        parts = []
        for message in prompt.messages:
            parts.append(_text(message))
            if message.get("role") not in _FIRST_ROLES:
                break
        return "\0".join(parts).encode("utf-8", "replace")
    if prompt.input_ids is not None:
        return ",".join(map(str, prompt.input_ids[:_MAX_TOKENS])).encode()
    return (prompt.text or "")[:_MAX_CHARACTERS].encode("utf-8", "replace")


def prompt_of(message: Message) -> Prompt:
    """The prompt of a request to a generator, if it has the inputs of one."""
    for at, tensor in enumerate(message.inputs):
        if tensor.name not in ("messages", "text_input", "input_ids"):
            continue
        contents = tensor.contents.bytes_contents
        raw = (
            message.raw_input_contents[at][4:] if message.raw_input_contents else b"".join(contents)
        )
        with contextlib.suppress(ValueError):
            if tensor.name == "messages" and len(raw) < _MAX_PARSED:
                messages = [one for one in orjson.loads(raw) if isinstance(one, dict)]
                return Prompt(messages=messages)
        return Prompt(text=raw[:_MAX_CHARACTERS].decode("latin-1"))
    return Prompt()


def load(server: Server) -> int:
    """By which servers are sorted, the least busy first."""
    return server.num_outstanding


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if not isinstance(content, str):
        parts = content if isinstance(content, list) else ()
        texts = (part.get("text") for part in parts if isinstance(part, Mapping))
        content = "".join(str(text) for text in texts if text)
    return content[:_MAX_CHARACTERS]


def _digest(*parts: bytes) -> bytes:
    return blake2b(b"\0".join(parts), digest_size=8).digest()
