"""Requests that are being answered: tokens from the engine's thread, text for the sender's.

A ``GenerationRequest`` is one Triton request; it has one ``Completion`` for each answer that is
generated (``n``, ``best_of``). The engine's thread only adds to them, under a
lock; the response streamer takes what has come.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from atoll.engine.request import FinishReason, Outcome, Token
from atoll.serving.triton.response_sender import ResponseSender
from atoll.text.answer import AnswerText


@dataclass(frozen=True)
class OutputFlags:
    """What a response carries besides the text."""

    finish_reason: bool = False
    cumulative_logprob: bool = False
    logprobs: bool = False
    prompt_logprobs: bool = False
    num_input_tokens: bool = False
    num_output_tokens: bool = False
    num_cached_tokens: bool = False
    token_ids: bool = False


class TokenText(NamedTuple):
    """A token, and the text that it is of the answer, or of the prompt.

    is_first: no text is before it; see ``Vocabulary.token_bytes``.
    """

    token: Token
    text: str
    is_first: bool = False


class Completion:
    """One answer, as the engine's ``Sink``."""

    def __init__(self, call: GenerationRequest, answer: AnswerText) -> None:
        self._call, self._answer = call, answer
        self._uncertain: deque[TokenText] = deque()
        self._gained: list[TokenText] = []
        self.outcome: Outcome | None = None
        self.num_output_tokens = 0
        self.cumulative_logprob = 0.0

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer."""
        return self._answer.stop_string

    def prompt(self, logprobs: list[Token]) -> None:
        """See ``Sink``."""
        tokens, is_first = [], True
        # Of a flag that says no, the texts were left out.
        for token, text in zip(logprobs, self._call.prompt_texts, strict=False):
            tokens.append(TokenText(token, text, is_first))
            is_first = is_first and not text
        self._call.prompt_tokens = tokens

    def accept(self, token: Token) -> bool:
        """See ``Sink``."""
        self._uncertain.append(TokenText(token, "", self._answer.is_at_start))
        texts = self._answer.push(token.id)
        with self._call.lock:
            self._gain(texts)
            self.num_output_tokens += 1
            self.cumulative_logprob += token.logprob or 0.0
        self._call.moved(self)
        return self.stop_string is not None

    def finished(self, outcome: Outcome) -> None:
        """See ``Sink``."""
        texts = self._answer.finish()
        with self._call.lock:
            self._gain(texts)
            self.outcome = outcome
        self._call.ended(self)

    def failed(self, error: Exception) -> None:
        """See ``Sink``."""
        self._call.fail(error)

    def take(self) -> list[TokenText]:
        """What the answer has gained since the last call; the texts are all of its text."""
        with self._call.lock:
            gained, self._gained = self._gained, []
        return gained

    def _gain(self, texts: Sequence[str]) -> None:
        """Under the lock: the texts of the oldest tokens that had none."""
        self._gained += [self._uncertain.popleft()._replace(text=text) for text in texts]

    @property
    def mean_logprob(self) -> float:
        """By which the best of several answers is chosen, as TGI does."""
        return self.cumulative_logprob / max(self.num_output_tokens, 1)

    @property
    def finish_reason(self) -> str:
        """vLLM's and OpenAI's word; empty while the answer goes on."""
        if self.outcome is None:
            return ""
        return "length" if self.outcome.reason is FinishReason.LENGTH else "stop"


class GenerationRequest:
    """One Triton request with its response sender.

    num_answers: how many are generated, of which ``num_returned`` are returned.
    limit_s: seconds after which the request ends with an error; None: never.
    choices: none until the prompt's tokens are there, and what follows from them.
    is_preparing: True once the request's own work on a thread of the preparation pool has begun.
    prompt_texts: what each of the prompt's tokens is of its text, if that is asked for.
    on_change: told, on the engine's thread, when there is something to send or to look at.
    start_rest: submits the choices after the first, once the first has its prompt in the cache.
    """

    def __init__(
        self,
        request_id: str,
        sender: ResponseSender,
        *,
        stream: bool,
        num_answers: int,
        num_returned: int,
        returned: OutputFlags,
        limit_s: float | None,
        on_change: Callable[[GenerationRequest], None],
    ) -> None:
        self.request_id, self.sender = request_id, sender
        self.stream, self.num_answers, self.num_returned = stream, num_answers, num_returned
        self.returned, self.limit_s = returned, limit_s
        self.num_input_tokens, self.prefix = 0, ""
        self.prompt_texts: Sequence[str] = ()
        self.lock = threading.Lock()
        self.is_preparing = False
        self.choices: Sequence[Completion] = ()
        self.prompt_tokens: list[TokenText] = []
        self.error: Exception | None = None
        # When it came, and when its tokens were given to the engine.
        self.arrival = self.submitted = time.monotonic()
        self.has_answered = False
        self.is_closed = False
        self.num_tokens_unpolled = 0
        self.start_rest: Callable[[], None] | None = None
        self._on_change = on_change

    @property
    def is_done(self) -> bool:
        """True once every answer has ended, or one has failed."""
        if self.error is not None:
            return True
        return bool(self.choices) and all(c.outcome is not None for c in self.choices)

    def moved(self, choice: Completion) -> None:
        """A choice has a new token."""
        self.num_tokens_unpolled += 1
        self._start_rest()
        if self.stream or self.num_tokens_unpolled >= POLL_TOKENS:
            self._on_change(self)

    def ended(self, choice: Completion) -> None:
        """A choice has ended well."""
        self._start_rest()
        if self.is_done:
            self._on_change(self)

    def fail(self, error: Exception) -> None:
        """A choice has failed, and with it the request."""
        self.error = self.error or error
        self._on_change(self)

    def best(self) -> Sequence[Completion]:
        """The answers that are returned, best first where there are more than asked for."""
        if self.num_returned == len(self.choices):
            return self.choices
        ranked = sorted(self.choices, key=lambda choice: -choice.mean_logprob)
        return ranked[: self.num_returned]

    def _start_rest(self) -> None:
        start, self.start_rest = self.start_rest, None
        if start is not None and self.error is None:
            start()


# Asking Triton whether a client has gone costs 28-65 us, so it is done every few tokens.
POLL_TOKENS = 8
