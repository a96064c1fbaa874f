"""Finds the first stop string in a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Finds stop strings in the texts of tokens; only holds back tokens that may be part of one.

    Every piece is returned once, in order: whole, or cut where the text ends.

    include: whether a stop string is part of the text that it ends. min_tokens: a stop string that
    ends within this many first tokens is ordinary text.
    """

    def __init__(self, stops: Sequence[str], include: bool = False, min_tokens: int = 0) -> None:
        self._stops, self._include, self._min_tokens = tuple(stops), include, min_tokens
        self.are_any = bool(self._stops)
        self._held: list[str] = []
        self._num_tokens = 0
        self.found: str | None = None

    def push(self, piece: str) -> list[str]:
        """The pieces that are final now; at a stop string, sets ``found`` and returns all."""
        if self.found is not None:
            return [""]
        if not self._stops:
            return [piece]
        self._num_tokens += 1
        before = sum(map(len, self._held))
        self._held.append(piece)
        text = "".join(self._held)
        end = self._end(text, before) if self._num_tokens > self._min_tokens else None
        if end is not None:
            return self._cut(end)
        held = max(_overlap(text, stop) for stop in self._stops)
        return self._release(len(text) - held)

    def finish(self) -> list[str]:
        """The pieces held back that turned out to be ordinary text."""
        held, self._held = self._held, []
        return held

    def _end(self, text: str, num_seen: int) -> int | None:
        """Where the text ends, if a stop string ends in the new part; sets ``found``."""
        places = [(text.find(s, max(num_seen - len(s) + 1, 0)), -len(s), s) for s in self._stops]
        hits = [place for place in places if place[0] >= 0]
        if not hits:
            return None
        at, _, self.found = min(hits)
        return at + len(self.found) if self._include else at

    def _cut(self, end: int) -> list[str]:
        found = []
        for piece in self.finish():
            found.append(piece[: max(end, 0)])
            end -= len(piece)
        return found

    def _release(self, size: int) -> list[str]:
        """The pieces within the first ``size`` characters."""
        count = 0
        for piece in self._held:
            size -= len(piece)
            if size < 0:
                break
            count += 1
        found, self._held = self._held[:count], self._held[count:]
        return found


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of ``text`` that is a prefix of ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
