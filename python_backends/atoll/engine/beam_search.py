"""Beam search: which continuations of a text's beams go on, and which are its answers.

As ``_beam_search`` of transformers 5 (generation/utils.py), in float32: a beam's score is the sum
of its tokens' log-probabilities. In each step, every token that may follow a beam is a candidate.
Of the best ``num_beams`` candidates, those that end the text are answers, ranked by

    score / length ** length_penalty

and the best ``num_beams`` candidates that do not end it are the next beams. Where options leave
fewer, fewer go on.

Plain numpy: knows neither requests in progress nor blocks nor models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from atoll.engine.request import FinishReason, SamplingOptions, Token
from atoll.sampling.inputs import Singles


class _Text(NamedTuple):
    """A beam's last token, and the beam that it continues; None: the prompt."""

    token: Token
    before: _Text | None


class Answer(NamedTuple):
    """A text that has ended. score: its rank among the answers, higher is better."""

    score: np.float32
    tokens: list[Token]
    reason: FinishReason


class Choice(NamedTuple):
    """The next beams, best first: which beam each continues, and with which token."""

    parents: list[int]
    token_ids: list[int]


class BeamSearch:
    """The search for one request's answers.

    num_given: the answer's first tokens that were given to the decoder behind its start; they count
    for the length. answers: those that have ended, best first, at most ``num_beams``.
    """

    def __init__(self, options: SamplingOptions, num_given: int = 0) -> None:
        self.answers: list[Answer] = []
        self._options, self._num_given = options, num_given
        self._num_tokens = 0
        self._texts: list[_Text | None] = [None]
        self._scores: Singles = np.zeros(1, np.float32)

    @property
    def is_over(self) -> bool:
        """Whether the answers are final."""
        options = self._options
        if not self._texts or self._num_tokens == options.max_new_tokens:
            return True
        if len(self.answers) < options.num_beams:
            return False
        if options.early_stopping is True:
            return True
        # transformers' guess of the best answer that the beams can still lead to.
        is_patient = options.early_stopping == "never" and options.length_penalty > 0
        length = options.max_new_tokens if is_patient else self._num_tokens
        return bool(self._ranked(self._scores[0], length) <= self.answers[-1].score)

    def advance(self, candidates: Sequence[Sequence[Token]], logprobs: Singles) -> Choice:
        """Chooses among the tokens that may follow each beam.

        candidates, logprobs: (beams, candidates); the best ``num_beams`` of each beam and all that
        end the text must be among them. Minus infinity: not to be chosen.
        """
        options, width = self._options, logprobs.shape[1]
        ending = options.ending_token_ids
        totals = (self._scores[:, None] + logprobs).ravel()
        order = np.argsort(-totals, kind="stable")
        order = order[np.isfinite(totals[order])]
        self._num_tokens += 1
        is_last = self._num_tokens == options.max_new_tokens
        parents, texts, chosen, ended = list[int](), list[_Text | None](), list[int](), []
        for place, at in enumerate(order.tolist()):
            parent, column = divmod(at, width)
            text = _Text(candidates[parent][column], self._texts[parent])
            if is_last or text.token.id in ending:
                if place < options.num_beams:
                    score = self._ranked(totals[at], self._num_tokens)
                    reason = options.ends_with(text.token.id) or FinishReason.LENGTH
                    ended.append(Answer(score, _tokens(text), reason))
            elif len(texts) < options.num_beams:
                parents.append(parent)
                texts.append(text)
                chosen.append(at)
        self._texts, self._scores = texts, totals[chosen]
        ranked = sorted([*self.answers, *ended], key=lambda answer: -answer.score)
        self.answers = ranked[: options.num_beams]
        return Choice(parents, [text.token.id for text in texts if text is not None])

    def _ranked(self, score: np.float32, num_tokens: int) -> np.float32:
        """A beam's score as an answer's."""
        length: float = (num_tokens + self._num_given) ** self._options.length_penalty
        return np.float32(score / np.float32(length))


def _tokens(text: _Text | None) -> list[Token]:
    found = []
    while text is not None:
        found.append(text.token)
        text = text.before
    return found[::-1]
