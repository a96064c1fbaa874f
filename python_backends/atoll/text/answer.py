"""The text of one answer, token by token: the only place that decides the text of a token.

    token -> characters -> clean-up of spaces -> cut at a stop string -> the token's text

The texts of all tokens add up to the answer. A token's text is final once no later token can change
it; until then, the token and all tokens after it are held back.
"""

from __future__ import annotations

from collections.abc import Iterable

from atoll.text.clean_up import CleanUp, TrimmedEnd
from atoll.text.detokenizer import Detokenizer
from atoll.text.stop_strings import StopStrings


class AnswerText:
    """``push`` each token, then ``finish``; each token gets one text, in order."""

    def __init__(
        self, detokenizer: Detokenizer, stops: StopStrings, cleans_up: bool, trims: bool = False
    ) -> None:
        self._detokenizer, self._stops = detokenizer, stops
        kinds = ((trims, TrimmedEnd), (cleans_up, CleanUp))
        self._changes = [kind() for is_wanted, kind in kinds if is_wanted]
        self._pending: list[str] = []  # their bytes may continue in the next token

    @property
    def has_stop_strings(self) -> bool:
        """Whether a token can end the text."""
        return self._stops.are_any

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text."""
        return self._stops.found

    @property
    def is_at_start(self) -> bool:
        """Whether there is no text before the next token, prompt included."""
        return self._detokenizer.is_at_start

    def push(self, token_id: int) -> list[str]:
        """The texts of the tokens that are final now."""
        self._pending.append(self._detokenizer.push(token_id))
        if self._detokenizer.has_pending:
            return []
        return self._through(self._flush())

    def finish(self) -> list[str]:
        """The texts of the remaining tokens."""
        rest = self._detokenizer.finish()
        if self._pending:
            self._pending[-1] += rest
        found = self._through(self._flush())
        pieces: list[str] = []
        for change in self._changes:
            pieces = [text for piece in pieces for text in change.push(piece)] + change.finish()
        return found + self._stopped(pieces) + self._stops.finish()

    def _flush(self) -> list[str]:
        pending, self._pending = self._pending, []
        return pending

    def _through(self, pieces: list[str]) -> list[str]:
        for change in self._changes:
            pieces = [text for piece in pieces for text in change.push(piece)]
        return self._stopped(pieces)

    def _stopped(self, pieces: Iterable[str]) -> list[str]:
        return [text for piece in pieces for text in self._stops.push(piece)]
