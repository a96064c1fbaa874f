"""A grammar that begins after an answer's reasoning, which is free.

    prompt, left open:   reasoning </think> grammar
    prompt:              <think> reasoning </think> grammar, or at once grammar
    with a bridge:       opening reasoning closing bridge grammar

Within the reasoning, every token is allowed, except those that end an answer.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from atoll.errors import ValidationError
from atoll.sampling.grammar import Grammar, Matcher
from atoll.text.reasoning import ReasoningMarks
from atoll.text.tokenizer import Tokenizer


class _Phase(enum.Enum):
    MAY_OPEN = enum.auto()
    FORCED = enum.auto()
    REASONING = enum.auto()
    ANSWER = enum.auto()


class AfterReasoning:
    """A grammar; see ``engine.request.Grammar``.

    state: see ``ReasoningMarks.state``.
    """

    def __init__(
        self, grammar: Grammar, tokenizer: Tokenizer, marks: ReasoningMarks, state: str
    ) -> None:
        self._grammar, self._tokenizer, self._marks, self._state = grammar, tokenizer, marks, state
        self.vocab_size = grammar.vocab_size

    def matcher(self) -> DelayedMatcher:
        """A new matcher, at the beginning of an answer."""
        return DelayedMatcher(self._grammar.matcher(), self._tokenizer, self._marks, self._state)


class DelayedMatcher:
    """One answer's state; see ``engine.request.Matcher``. Engine thread only."""

    def __init__(
        self, matcher: Matcher, tokenizer: Tokenizer, marks: ReasoningMarks, state: str
    ) -> None:
        self._matcher, self._tokenizer, self._marks = matcher, tokenizer, marks
        self._closing = marks.closing.encode()
        self._tail = b""  # the end of the reasoning
        self._forced: list[int] = []
        self._then = _Phase.ANSWER  # what follows the forced tokens
        self._opening = tokenizer.encode(marks.opening, add_special_tokens=False)
        if state == "closed":
            self._phase = _Phase.ANSWER
        elif state == "open" or marks.begins_inside:
            self._phase = _Phase.REASONING
        elif marks.bridge is not None:
            self._force(self._opening, _Phase.REASONING)
        else:
            # If an opening begins with a token of text, that may begin an answer as well.
            is_marker = self._opening[0] in tokenizer.core.get_added_tokens_decoder()
            self._phase = _Phase.MAY_OPEN if is_marker else _Phase.ANSWER

    @property
    def is_done(self) -> bool:
        """True once no further token is allowed."""
        return self._phase is _Phase.ANSWER and self._matcher.is_done

    def advance(self, token_id: int) -> None:
        """Accepts the sampled token.

        Raises:
            ValidationError: it is not allowed; no allowed token was available.
        """
        if self._phase is _Phase.MAY_OPEN and token_id == self._opening[0]:
            self._force(self._opening[1:], _Phase.REASONING)
        elif self._phase is _Phase.FORCED:
            if token_id != self._forced[0]:
                raise self.refusal()
            self._force(self._forced[1:], self._then)
        elif self._phase is _Phase.REASONING:
            self._reason(token_id)
        else:
            self._phase = _Phase.ANSWER
            self._matcher.advance(token_id)

    def fill(self, bitmask: npt.NDArray[np.int32], row: int) -> None:
        """Marks the allowed tokens in a row of the bitmask (rows, words)."""
        if self._phase is _Phase.ANSWER:
            self._matcher.fill(bitmask, row)
        elif self._phase is _Phase.MAY_OPEN:
            self._matcher.fill(bitmask, row)
            _set(bitmask, row, self._opening[0], True)
        elif self._phase is _Phase.FORCED:
            bitmask[row] = 0
            _set(bitmask, row, self._forced[0], True)
        else:
            bitmask[row] = -1
            for token_id in self._tokenizer.eos_token_ids:
                _set(bitmask, row, token_id, False)

    def refusal(self) -> ValidationError:
        """The error of an answer that has no allowed token."""
        return self._matcher.refusal()

    def _reason(self, token_id: int) -> None:
        self._tail = (self._tail + self._tokenizer.vocabulary.token_bytes(token_id))[-256:]
        if self._closing in self._tail:
            bridge = self._marks.bridge or ""
            self._force(self._tokenizer.encode(bridge, add_special_tokens=False), _Phase.ANSWER)

    def _force(self, ids: list[int], then: _Phase) -> None:
        self._forced, self._then = ids, then
        self._phase = _Phase.FORCED if ids else then


def _set(bitmask: npt.NDArray[np.int32], row: int, token_id: int, is_allowed: bool) -> None:
    word, bit = divmod(token_id, 32)
    words = bitmask[row].view(np.uint32)
    mask = np.uint32(1 << bit)
    words[word] = words[word] | mask if is_allowed else words[word] & ~mask
