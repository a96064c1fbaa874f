"""Requests that are being answered: tokens from the engine's thread, text for the sender's.

A ``Call`` is one Triton request; it has one ``Choice`` for each answer that is generated (``n``,
``best_of``). The engine's thread only adds to them, under a lock; the outbox takes what has come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from atoll.engine.request import FinishReason, Outcome, Token
from atoll.serving.sender import Sender
from atoll.text.detokenizer import Detokenizer, StopStrings


@dataclass(frozen=True)
class Returned:
    """What a response carries besides the text."""

    finish_reason: bool = False
    cumulative_logprob: bool = False
    logprobs: bool = False
    prompt_logprobs: bool = False
    num_input_tokens: bool = False
    num_output_tokens: bool = False
    token_ids: bool = False


@dataclass
class Progress:
    """What an answer has gained since it was last looked at."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)


class Choice:
    """One answer, as the engine's ``Sink``."""

    def __init__(self, call: Call, detokenizer: Detokenizer, stops: StopStrings) -> None:
        self._call, self._detokenizer, self._stops = call, detokenizer, stops
        self._text: list[str] = []
        self._tokens: list[Token] = []
        self.outcome: Outcome | None = None
        self.num_output_tokens = 0
        self.cumulative_logprob = 0.0

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer."""
        return self._stops.found

    def prompt(self, logprobs: list[Token]) -> None:
        """See ``Sink``."""
        self._call.prompt_tokens = logprobs

    def accept(self, token: Token) -> bool:
        """See ``Sink``."""
        text = self._stops.push(self._detokenizer.push(token.id))
        with self._call.lock:
            self._text.append(text)
            self._tokens.append(token)
            self.num_output_tokens += 1
            self.cumulative_logprob += token.logprob or 0.0
        self._call.moved(self)
        return self._stops.found is not None

    def finished(self, outcome: Outcome) -> None:
        """See ``Sink``."""
        rest = ""
        if self._stops.found is None:
            rest = self._stops.push(self._detokenizer.finish()) + self._stops.finish()
        with self._call.lock:
            self._text.append(rest)
            self.outcome = outcome
        self._call.ended(self)

    def failed(self, error: Exception) -> None:
        """See ``Sink``."""
        self._call.fail(error)

    def take(self) -> Progress:
        """What has come since the last call."""
        with self._call.lock:
            progress = Progress("".join(self._text), self._tokens)
            self._text, self._tokens = [], []
        return progress

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


class Call:
    """One Triton request with its response sender.

    on_change: told, on the engine's thread, when there is something to send or to look at.
    start_rest: submits the choices after the first, once the first has its prompt in the cache.
    """

    def __init__(
        self,
        request_id: str,
        sender: Sender,
        *,
        stream: bool,
        num_returned: int,
        returned: Returned,
        num_input_tokens: int,
        prefix: str,
        on_change: Callable[[Call], None],
    ) -> None:
        self.request_id, self.sender = request_id, sender
        self.stream, self.num_returned, self.returned = stream, num_returned, returned
        self.num_input_tokens, self.prefix = num_input_tokens, prefix
        self.lock = threading.Lock()
        self.choices: list[Choice] = []
        self.prompt_tokens: list[Token] = []
        self.error: Exception | None = None
        self.arrival = time.monotonic()
        self.has_answered = False
        self.is_closed = False
        self.num_tokens_unpolled = 0
        self.start_rest: Callable[[], None] | None = None
        self._on_change = on_change

    @property
    def is_done(self) -> bool:
        """True once every answer has ended, or one has failed."""
        return self.error is not None or all(c.outcome is not None for c in self.choices)

    def moved(self, choice: Choice) -> None:
        """A choice has a new token."""
        self.num_tokens_unpolled += 1
        self._start_rest()
        if self.stream or self.num_tokens_unpolled >= POLL_TOKENS:
            self._on_change(self)

    def ended(self, choice: Choice) -> None:
        """A choice has ended well."""
        self._start_rest()
        if self.is_done:
            self._on_change(self)

    def fail(self, error: Exception) -> None:
        """A choice has failed, and with it the request."""
        self.error = self.error or error
        self._on_change(self)

    def best(self) -> Sequence[Choice]:
        """The answers that are returned, best first where there are more than asked for."""
        if self.num_returned == len(self.choices):
            return self.choices
        ranked = sorted(self.choices, key=lambda choice: -choice.mean_logprob)
        return ranked[: self.num_returned]

    def _start_rest(self) -> None:
        start, self.start_rest = self.start_rest, None
        if start is not None:
            start()


# Asking Triton whether a client has gone costs 28-65 us, so it is done every few tokens.
POLL_TOKENS = 8
