"""The searches in progress: passes a step's candidates to them, and their answers to the sinks."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from atoll.engine.beam_search import Answer, BeamSearch
from atoll.engine.branches import branch
from atoll.engine.output import missing_token, read_tokens
from atoll.engine.request import Request, RequestState
from atoll.engine.scheduler import Scheduler
from atoll.errors import AtollError, ValidationError
from atoll.sampling.inputs import Candidates


class Searches:
    """The searches in progress, by request. Engine thread only."""

    def __init__(self) -> None:
        self._searches: WeakKeyDictionary[Request, BeamSearch] = WeakKeyDictionary()

    def advance(
        self, scheduler: Scheduler, beams: list[RequestState], rows: Sequence[int],
        found: Candidates,
    ) -> Sequence[Answer]:  # fmt: skip
        """Chooses a search's next beams; mutates ``beams``. Returns the answers once it is over.

        rows: those of the beams among the candidates.

        Raises:
            AtollError: the search ends with fewer answers than the request wants.
        """
        request = beams[0].request
        if beams[0].num_output_tokens == 0:
            num_given = len(request.prompt_ids) - 1 if request.encoder_ids else 0
            self._searches[request] = BeamSearch(request.options, num_given)
        search, width = self._searches[request], found.token_ids.shape[1]
        tokens = [
            read_tokens(found.token_ids[row], found.details, start=row * width) for row in rows
        ]
        choice = search.advance(tokens, found.logprobs[rows])
        if not search.is_over:
            branch(beams, choice.parents, choice.token_ids, scheduler.running, scheduler.cache)
            return []
        del self._searches[request]
        if len(search.answers) < len(request.sinks):
            raise _too_few(beams[0], len(search.answers))
        return search.answers[: len(request.sinks)]


def deliver(sequence: RequestState, answers: Sequence[Answer]) -> None:
    """Passes a search's answers to the sinks of its request."""
    request = sequence.request
    sequence.request.progress.first_token = time.monotonic()
    if request.options.prompt_logprobs:
        request.sink.on_prompt(sequence.prompt_logprobs)
    for sink, answer in zip(request.sinks, answers, strict=True):
        for token in answer.tokens:
            sink.on_token(token)
        outcome = sequence.outcome(answer.reason)
        sink.on_finished(dataclasses.replace(outcome, num_output_tokens=len(answer.tokens)))


def _too_few(sequence: RequestState, num_answers: int) -> AtollError:
    if num_answers == 0:
        return missing_token(sequence, -1)
    return ValidationError(
        f"n is {len(sequence.request.sinks)}; options of the request left the beam search only "
        f"{num_answers} answers"
    )
