"""Reasoning between an opening and a closing text, ``<think>`` and ``</think>`` for most models.

Often the prompt has the opening one already, and the answer begins inside. White space around the
reasoning is not part of it, nor of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from atoll_client.gateway.chat_formats.call_head import NoCall
from atoll_client.gateway.chat_formats.events import Reading, Reasoned
from atoll_client.gateway.chat_formats.reader import Reasoning, perhaps
from atoll_client.gateway.chat_formats.source import Source


@dataclass(frozen=True)
class Tags(Reasoning):
    """begins_inside: an answer begins inside its reasoning unless the prompt has closed it.
    token: the one with which ``opening`` begins, if it has more. tags: see ``frame``.
    """

    opening: str = "<think>"
    closing: str = "</think>"
    begins_inside: bool = False
    token: str = ""
    tags: tuple[str, str] | None = None

    @property
    def markers(self) -> tuple[str, ...]:
        """See ``Reasoning``."""
        return self.token or self.opening, self.closing

    @property
    def frame(self) -> tuple[str, str] | None:
        """See ``Reasoning``."""
        return self.tags

    def option(self) -> dict[str, Any]:
        """See ``Reasoning``."""
        found: dict[str, Any] = {"opening": self.opening, "closing": self.closing}
        return {**found, "begins_inside": True} if self.begins_inside else found

    def read(self, source: Source, state: str) -> Reading[None]:
        """See ``Reasoning``."""
        is_inside = state == "open" or (self.begins_inside and state != "closed")
        # It may be repeated although the prompt has it.
        has_opening = yield from perhaps(source, self._opened(source))
        if is_inside or has_opening:
            yield from source.blank()
            yield from source.pieces(Reasoned, self.closing)
            source.mark()
            yield from source.blank()

    def _opened(self, source: Source) -> Reading[bool]:
        yield from source.blank()
        if not (yield from source.accept(self.opening)):
            raise NoCall
        return True
