"""Hands a call's answers to the engine, one engine request for each."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from atoll.engine.request import Request, SamplingOptions
from atoll.engine.thread import Engine
from atoll.sampling.grammar import Grammar
from atoll.serving.requests.generation_request import GenerationRequest


@dataclass(frozen=True)
class Submission:
    """Everything the engine must know of a call.

    prompt_ids: what the model continues. encoder_ids: what an encoder-decoder reads instead.
    """

    call: GenerationRequest
    prompt_ids: tuple[int, ...]
    sampling: SamplingOptions
    encoder_ids: tuple[int, ...] = ()
    adapter_id: str | None = None
    session_id: str | None = None

    def start(self, engine: Engine, grammar: Grammar | None = None) -> None:
        """Submits the first answer; the others follow once its prompt is in the cache.

        A call that has ended meanwhile (its client has left) is not submitted.

        Raises:
            Overloaded, NotReady: nothing was submitted.
        """

        def start_rest() -> None:
            try:
                for index in range(1, len(self.call.choices)):
                    engine.submit(self._request(index, grammar))
            except Exception as error:
                self.call.fail(error)

        if len(self.call.choices) > 1:
            self.call.start_rest = start_rest
        if self.call.is_done:
            return
        self.call.submitted = time.monotonic()
        engine.submit(self._request(0, grammar))
        if self.call.error is not None:
            cancel(self.call, engine)

    def _request(self, index: int, grammar: Grammar | None) -> Request:
        seed = (self.sampling.seed + index) % 2**64
        return Request(
            _name(self.call, index),
            self.prompt_ids,
            dataclasses.replace(self.sampling, seed=seed),
            self.call.choices[index],
            adapter_id=self.adapter_id,
            session_id=self.session_id,
            grammar=grammar,
            encoder_ids=self.encoder_ids,
            arrival=self.call.arrival,
        )


def cancel(call: GenerationRequest, engine: Engine) -> None:
    """Ends all of a call's answers."""
    for index in range(len(call.choices)):
        engine.cancel(_name(call, index))


def _name(call: GenerationRequest, index: int) -> str:
    return f"{call.request_id}.{index}"
