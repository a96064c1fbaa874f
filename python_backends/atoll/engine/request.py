"""The engine's requests, their state while they run, and what is delivered to their sinks.

A request is frozen; its running state is a ``RequestState``, owned by the engine thread. The engine
does not know text: whoever detokenizes reports stop strings.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from atoll.engine.blocks import BlockTable
from atoll.engine.grammar import Grammar, Matcher
from atoll.engine.state_slots import HeldState


class FinishReason(enum.Enum):
    """Why generation ended."""

    LENGTH = "length"
    EOS = "eos_token"
    STOP = "stop_sequence"


class Token(NamedTuple):
    """One generated token. ``logprob``, ``rank`` and ``top`` are set only where asked for.

    top: (id, logprob) of the most likely tokens, most likely first.
    """

    id: int
    logprob: float | None = None
    rank: int | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen. Names and meanings are those of transformers where it has the option.

    Without ``do_sample``, decoding is greedy and temperature to typical_p are ignored.
    frequency_penalty, presence_penalty: OpenAI's, over the generated tokens.
    top_logprobs, prompt_top_logprobs: number of alternatives reported with each token of the answer
    and of the prompt. num_beams: 1: no beam search; see ``engine.beam_search``. bad_words: two or
    more tokens, of which the last never follows the others. begin_suppress_tokens: what no answer
    begins with. first_time: the first id of a time; see ``sampling.processors``.
    """

    max_new_tokens: int
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    watermark: bool = False
    seed: int = 0
    eos_token_ids: frozenset[int] = frozenset()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    prompt_top_logprobs: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    forced_eos_token_id: int | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    first_time: int | None = None

    @property
    def ending_token_ids(self) -> frozenset[int]:
        """Tokens that end the text."""
        return self.stop_token_ids if self.ignore_eos else self.stop_token_ids | self.eos_token_ids

    def ends_with(self, token_id: int) -> FinishReason | None:
        """Why a text ends with a token; None: it does not."""
        if token_id not in self.ending_token_ids:
            return None
        return FinishReason.EOS if token_id in self.eos_token_ids else FinishReason.STOP

    @property
    def is_plain_greedy(self) -> bool:
        """True if the argmax of the unchanged logits is all that is needed."""
        return not (self.do_sample or self.logprobs or self.prompt_logprobs or self.changes_logits)

    @property
    def changes_logits(self) -> bool:
        """True if the logits are processed before the warpers."""
        return bool(
            self.repetition_penalty != 1.0 or self.frequency_penalty or self.presence_penalty
            or self.no_repeat_ngram_size or self.logit_bias or self.watermark
            or self.min_new_tokens or self.forced_eos_token_id is not None
            or self.bad_words or self.begin_suppress_tokens or self.first_time is not None
        )  # fmt: skip


@dataclass(eq=False)
class Progress:
    """How far a request has come, in monotonic seconds; None: not so far. The engine writes it, any
    thread may read: one that fails has no outcome."""

    scheduled: float | None = None
    first_token: float | None = None


class Timing(NamedTuple):
    """Monotonic seconds; None: the request did not get that far."""

    arrival: float
    scheduled: float | None
    first_token: float | None
    finished: float


@dataclass(frozen=True)
class Outcome:
    """How a request ended, for its sink.

    num_accepted_tokens, num_rejected_tokens: of the prediction's tokens that were tried.
    """

    reason: FinishReason
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    timing: Timing
    num_accepted_tokens: int = 0
    num_rejected_tokens: int = 0


class Sink(Protocol):
    """Receives a request's tokens. The last call is either ``on_finished`` or ``on_failed``.

    All methods are called on the engine thread and must return at once.
    """

    def on_prompt(self, logprobs: list[Token]) -> None:
        """Log-probabilities of the prompt's tokens, if requested; the first token has none."""

    def on_token(self, token: Token) -> None:
        """One token."""

    def on_finished(self, outcome: Outcome) -> None:
        """All tokens have been delivered."""

    def on_failed(self, error: Exception) -> None:
        """The request has failed."""


@dataclass(frozen=True, eq=False)
class Request:
    """One prompt.

    adapter_id: LoRA adapter; None: the base model. session_id: conversation whose KV blocks are
    reused, and kept afterwards. grammar: constrains the answer. encoder_ids: the input of an
    encoder-decoder, whose prompt is the decoder's start token. features: (frames, features) of a
    sound, whose ``encoder_ids`` only say how many outputs the encoder has. other_sinks: of a beam
    search's answers behind the best one. priority: lower goes first. client: who shares the model
    with other clients; None: nobody, see ``engine.fair_schedule``.
    prediction_ids: what much of the answer is expected to be, for speculation.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    options: SamplingOptions
    sink: Sink
    adapter_id: str | None = None
    session_id: str | None = None
    grammar: Grammar | None = None
    encoder_ids: tuple[int, ...] = ()
    other_sinks: tuple[Sink, ...] = ()
    features: npt.NDArray[np.float32] | None = None
    priority: int = 0
    client: str | None = ""
    prediction_ids: tuple[int, ...] = ()
    arrival: float = field(default_factory=time.monotonic)
    progress: Progress = field(default_factory=Progress)

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """One for each answer."""
        return (self.sink, *self.other_sinks)

    @property
    def cache_root(self) -> Hashable:
        """Of prefixes that may be shared: adapter and encoder's input; sounds are not compared."""
        if self.features is not None:
            return self.request_id
        return (self.adapter_id, self.encoder_ids) if self.encoder_ids else self.adapter_id


class RequestState:
    """A waiting or running request: its tokens, how many of them are in the cache, and where.

    token_ids: prompt, then output. num_computed_tokens: tokens whose keys and values are cached.
    draft: guessed next tokens, verified by the next step. tables: the blocks in each group of
    layers. cross_table: the blocks of the encoder's keys and values, which are computed in the
    request's first step. state: of the recurrent layers, if there are any. adapter: number of the
    LoRA adapter; -1: none. key_length: see ``layers.rotary.RopeSpec.key_length``. beams: of a
    search, all states of the request, best first; a list that they share. copies: of blocks, before
    the next step, as (group, from, to). due: see ``engine.waiting``. turn: number of the last one.
    num_known_tokens: of its prefix that were cached when it was queued.
    predicts: whether the draft is from the request's prediction. num_accepted_tokens,
    num_rejected_tokens: of such drafts.
    """

    def __init__(
        self,
        request: Request,
        key_length: int | None = None,
        *,
        num_groups: int = 1,
        adapter: int = -1,
    ) -> None:
        self.request, self.adapter = request, adapter
        self.token_ids = list(request.prompt_ids)
        self.num_prompt_tokens = len(request.prompt_ids)
        self.num_computed_tokens = self.num_cached_tokens = self.num_known_tokens = 0
        self.draft: list[int] = []
        self.predicts = False
        self.turn = 0
        self.num_accepted_tokens = self.num_rejected_tokens = 0
        # The number, since another adapter may come under the same name.
        root = request.cache_root if adapter < 0 else (request.cache_root, adapter)
        self.root = root if key_length is None else (root, key_length)
        self.tables = tuple(BlockTable(self.root) for _ in range(num_groups))
        self.cross_table = BlockTable()
        self.state = HeldState()
        self.is_encoded = not request.encoder_ids
        self.copies: tuple[tuple[int, int, int], ...] = ()
        self.beams = [self] if request.options.num_beams > 1 else []
        # The first token has no log-probability.
        self.prompt_logprobs = [Token(request.prompt_ids[0])]
        grammar, self.due = request.grammar, request.arrival
        self.matcher: Matcher | None = None if grammar is None else grammar.matcher()

    @property
    def num_tokens(self) -> int:
        """Prompt and output so far."""
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_pending_tokens(self) -> int:
        """Tokens that are not computed yet: one when decoding, more in prefill."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def wants_prompt_logprobs(self) -> bool:
        """True until the prompt's log-probabilities have been delivered."""
        return self.request.options.prompt_logprobs and self.num_output_tokens == 0

    @property
    def members(self) -> list[RequestState]:
        """The states of its request: its beams, or only itself."""
        return self.beams or [self]

    @property
    def num_places(self) -> int:
        """Sequences that it takes the place of: of a search, the first state stands for all."""
        if not self.beams:
            return 1
        return self.request.options.num_beams if self is self.beams[0] else 0

    def cut(self, num_output_tokens: int) -> None:
        """Discards what was computed beyond the answer's first ``num_output_tokens``."""
        del self.token_ids[self.num_prompt_tokens + num_output_tokens :]
        # The last token of a finished text has not been computed.
        self.num_computed_tokens = min(self.num_computed_tokens, self.num_tokens - 1)
        self.draft = []

    def outcome(self, reason: FinishReason) -> Outcome:
        """The outcome for the sink."""
        arrival, come = self.request.arrival, self.request.progress
        timing = Timing(arrival, come.scheduled, come.first_token, time.monotonic())
        num_input_tokens = len(self.request.encoder_ids) or self.num_prompt_tokens
        return Outcome(
            reason, num_input_tokens, self.num_cached_tokens, self.num_output_tokens, timing,
            self.num_accepted_tokens, self.num_rejected_tokens,
        )  # fmt: skip
