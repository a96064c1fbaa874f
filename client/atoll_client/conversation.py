"""A chat that remembers: each turn sends what was said before, and the server reuses its cache.

The key-value blocks of the earlier turns are found by their contents, so that a turn computes only
what is new, wherever the conversation is kept.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atoll_client.client import Client


class Conversation:
    """``say`` takes a whole answer, ``stream`` its pieces; both are remembered."""

    def __init__(self, client: Client, model: str | None, system: str | None) -> None:
        self._client, self._model = client, model
        self.messages: list[dict[str, Any]] = []
        if system is not None:
            self.messages.append({"role": "system", "content": system})

    def say(self, text: str, **options: Any) -> str:
        """The answer to one more message."""
        return "".join(self.stream(text, **options))

    def stream(self, text: str, **options: Any) -> Generator[str, None, None]:
        """The answer as it comes; what was read of it is remembered if the loop is left early."""
        asked = [*self.messages, {"role": "user", "content": text}]
        options.setdefault("max_tokens", None)
        parts: list[str] = []
        try:
            for chunk in self._client.stream(asked, self._model, **options):
                parts.append(chunk.text)
                yield chunk.text
        finally:
            if parts:
                self.messages = [*asked, {"role": "assistant", "content": "".join(parts)}]
