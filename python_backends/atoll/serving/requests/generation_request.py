"""Generation requests: they get tokens from the engine, and text for the response streamer.

A ``GenerationRequest`` is one Triton request; it has one ``Completion`` for each answer that is
generated (``n``, ``best_of``). The engine's thread only queues what it delivers; the response
streamer's thread detokenizes it, and is the only one that reads and changes all other state.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from atoll.engine.request import FinishReason, Outcome, Request, Token
from atoll.engine.thread import Engine
from atoll.serving.requests.output_flags import Flags, OutputFlags, returned_by
from atoll.serving.requests.prompts import Prompt
from atoll.serving.requests.report import Report, parts_of
from atoll.serving.requests.sampling_options import GenerateOptions
from atoll.serving.requests.served_request import Notified, ServedRequest
from atoll.serving.triton.response_sender import ResponseSender
from atoll.text.answer import AnswerText


class TokenText(NamedTuple):
    """A token, and its part of the answer's or the prompt's text.

    is_first: there is no text before it; see ``Vocabulary.token_bytes``.
    """

    token: Token
    text: str
    is_first: bool = False


class Completion:
    """One answer, as the engine's ``Sink``. outcome: None until it has ended."""

    def __init__(self, request: GenerationRequest, answer: AnswerText) -> None:
        self._request, self._answer = request, answer
        self._delivered: deque[Token | list[Token] | Outcome] = deque()
        self._is_urgent = True  # the first token, and every token that may complete a stop string
        self._uncertain: deque[TokenText] = deque()
        self._gained: list[TokenText] = []
        self.outcome: Outcome | None = None
        self.num_output_tokens = 0
        self.cumulative_logprob = 0.0

    def on_prompt(self, logprobs: list[Token]) -> None:
        """See ``Sink``."""
        self._delivered.append(logprobs)

    def on_token(self, token: Token) -> None:
        """See ``Sink``."""
        self._delivered.append(token)
        self._request.notify(self._is_urgent)
        self._is_urgent = self._answer.has_stop_strings

    def on_finished(self, outcome: Outcome) -> None:
        """See ``Sink``."""
        self._delivered.append(outcome)
        self._request.notify(True)

    def on_failed(self, error: Exception) -> None:
        """See ``Sink``."""
        self._request.fail(error)

    def advance(self) -> int:
        """Detokenizes what was delivered; returns the number of tokens."""
        before = self.num_output_tokens
        while self._delivered:
            delivered = self._delivered.popleft()
            if isinstance(delivered, Token):
                self._take(delivered)
            elif isinstance(delivered, Outcome):
                self._end(delivered)
            else:
                self._request.take_prompt(delivered)
        return self.num_output_tokens - before

    def take(self) -> list[TokenText]:
        """The tokens since the last call; all of their texts together are the answer's text."""
        gained, self._gained = self._gained, []
        return gained

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer."""
        return self._answer.stop_string

    @property
    def mean_logprob(self) -> float:
        """Determines the best of several answers, as in TGI."""
        return self.cumulative_logprob / max(self.num_output_tokens, 1)

    @property
    def finish_reason(self) -> str:
        """As in vLLM and OpenAI; empty until the answer has ended."""
        if self.outcome is None:
            return ""
        return "length" if self.outcome.reason is FinishReason.LENGTH else "stop"

    def _take(self, token: Token) -> None:
        if self.stop_string is not None:  # computed before the engine was told
            return
        self._uncertain.append(TokenText(token, "", self._answer.is_at_start))
        self._gain(self._answer.push(token.id))
        self.num_output_tokens += 1
        self.cumulative_logprob += token.logprob or 0.0
        if self.stop_string is not None:
            self._request.stop(self)

    def _end(self, outcome: Outcome) -> None:
        if self.stop_string is not None:  # it counts, whatever else ended the answer later
            outcome = dataclasses.replace(
                outcome, reason=FinishReason.STOP, num_output_tokens=self.num_output_tokens
            )
        self._gain(self._answer.finish())
        self.outcome = outcome

    def _gain(self, texts: Sequence[str]) -> None:
        """Adds the texts of the oldest tokens whose text was not known yet."""
        self._gained += [self._uncertain.popleft()._replace(text=text) for text in texts]


@dataclass(frozen=True)
class Generation:
    """What was read from a request.

    constraint: kind and source of its grammar. session_id: the conversation whose KV blocks are
    reused, and kept afterwards.
    """

    prompt: Prompt
    options: GenerateOptions
    flags: Flags
    constraint: tuple[str, str] | None = None
    session_id: str | None = None


class GenerationRequest(ServedRequest):
    """One Triton request with its response sender.

    name: prefix of the engine's request ids. completions: empty until the prompt is tokenized.
    prefix: the input, if it is part of the answer. prompt_texts: the text of each prompt token, if
    it is needed. reasoning_state: see ``ReasoningMarks.state``; None: it is not to be sent.
    """

    def __init__(
        self, name: str, asked: Generation, sender: ResponseSender, streamer: Notified,
        limit_s: float | None,
    ) -> None:  # fmt: skip
        super().__init__(sender, streamer, num_answers=asked.options.best_of, limit_s=limit_s)
        self.name, self.asked = name, asked
        self.is_stream = bool(asked.flags["stream"])
        self.returned: OutputFlags = returned_by(asked.flags, asked.options.sampling)
        self.num_input_tokens, self.prefix = 0, ""
        self.prompt_texts: Sequence[str] = ()
        self.reasoning_state: str | None = None
        self.prompt_tokens: list[TokenText] = []
        self.completions: Sequence[Completion] = ()
        self._engine: Engine | None = None
        # The engine's: one for each completion, or for all that are searched for.
        self._requests: Sequence[Request] = ()
        self._num_submitted = 0

    @property
    def is_complete(self) -> bool:
        """True once every answer has ended."""
        return bool(self.completions) and all(c.outcome is not None for c in self.completions)

    def report(self) -> Report:
        """See ``ServedRequest``."""
        sampling = self.asked.options.sampling
        completions = self.completions
        options: dict[str, Any] = {
            "max_tokens": sampling.max_new_tokens, "choice.count": self.asked.options.n,
        }  # fmt: skip
        if sampling.do_sample:
            options |= {
                "temperature": sampling.temperature, "top_p": sampling.top_p,
                "top_k": sampling.top_k, "seed": sampling.seed,
            }  # fmt: skip
        return Report(
            "text_completion" if self.asked.prompt.messages is None else "chat",
            self.num_input_tokens,
            sum(completion.num_output_tokens for completion in completions),
            tuple(c.finish_reason for c in completions if c.finish_reason),
            parts_of(("tokenize", "queue", "prefill", "decode", "send"), self._moments()),
            {f"gen_ai.request.{name}": value for name, value in options.items()},
        )

    def _moments(self) -> list[float]:
        """The borders of its parts, up to now: one that has failed ended in the last of them."""
        found = [self.arrival]
        if self._requests:
            come = self._requests[0].progress
            found += [self.submitted, *([come.scheduled] if come.scheduled is not None else [])]
            found += [come.first_token] if come.first_token is not None else []
        if self.error is None and self.completions and self.completions[0].outcome is not None:
            found.append(self.completions[0].outcome.timing.finished)
        return [*found, time.monotonic()]

    def asked_text(self) -> Any:
        """See ``ServedRequest``."""
        prompt = self.asked.prompt
        return prompt.messages or prompt.text or prompt.input_ids

    def start(self, engine: Engine, requests: Sequence[Request]) -> None:
        """Submits the first answer; the others follow once its prompt is in the cache.

        A request that has ended in the meantime (its client has disconnected) is not submitted.

        Raises:
            Overloaded, NotReady: nothing was submitted.
        """
        self._engine, self._requests = engine, requests
        if self.is_done:
            return
        self.submitted = time.monotonic()
        self._submit(1)
        if self.error is not None:
            self.cancel()

    def advance(self) -> None:
        """See ``ServedRequest``."""
        for completion in self.completions:
            self.num_tokens_unpolled += completion.advance()
        is_cached = bool(self.completions) and self.completions[0].num_output_tokens > 0
        if is_cached and self.error is None:
            try:
                self._submit(len(self._requests))
            except Exception as error:
                self.fail(error)

    def notify(self, is_urgent: bool) -> None:
        """The engine has delivered something."""
        self._streamer.notify(self, is_urgent)

    def stop(self, completion: Completion) -> None:
        """Ends an answer after the tokens that it has."""
        assert self._engine is not None
        if self.asked.options.sampling.num_beams > 1:
            return  # all have ended
        request = self._requests[self.completions.index(completion)]
        self._engine.finish(request, completion.num_output_tokens)

    def cancel(self) -> None:
        """See ``ServedRequest``."""
        for request in self._requests[: self._num_submitted]:
            assert self._engine is not None
            self._engine.cancel(request.request_id)

    def take_prompt(self, logprobs: list[Token]) -> None:
        """Log-probabilities of the prompt's tokens."""
        tokens, is_first = [], True
        # There are no texts if a flag turns them off.
        for token, text in zip(logprobs, self.prompt_texts, strict=False):
            tokens.append(TokenText(token, text, is_first))
            is_first = is_first and not text
        self.prompt_tokens = tokens

    def best(self) -> Sequence[Completion]:
        """The answers to return; if more were generated, the best ones, best first."""
        num_returned = self.asked.options.n
        if num_returned == len(self.completions):
            return self.completions
        ranked = sorted(self.completions, key=lambda completion: -completion.mean_logprob)
        return ranked[:num_returned]

    def _submit(self, up_to: int) -> None:
        assert self._engine is not None
        while self._num_submitted < up_to:
            self._num_submitted += 1  # before its first token can arrive
            self._engine.submit(self._requests[self._num_submitted - 1])
