"""The engine without its thread: requests in, one step after the other, answers to the sinks.

Not thread-safe; ``engine.Engine`` runs it on a thread of its own. A step that fails answers its
requests with the error, and the cache starts over: what the failed step wrote is unknown.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.engine.batch import StepOutput
from atoll.engine.blocks import BlockManager
from atoll.engine.request import FinishReason, Request, Sequence, Token
from atoll.engine.runner import Runner
from atoll.engine.sampler import Sampled, Sampler, prompt_logprobs
from atoll.engine.scheduler import ScheduledSequence, Scheduler, SchedulerLimits
from atoll.errors import AtollError, GenerationError, ValidationError

logger = logging.getLogger(__name__)

Draft = Callable[[Sequence], list[int]]


@dataclass(frozen=True)
class EngineStats:
    """A snapshot: blocks and sequences now; the rest counted since the start."""

    num_blocks: int
    num_used_blocks: int
    num_cached_blocks: int
    num_running: int
    num_waiting: int
    num_parked: int
    num_steps: int
    num_forward_tokens: int
    num_preemptions: int
    num_evicted_blocks: int
    num_queried_tokens: int
    num_hit_tokens: int
    num_drafted_tokens: int
    num_accepted_tokens: int
    num_failed_steps: int


class EngineCore:
    """Scheduler, runner and sampler, and the sequences they work on."""

    def __init__(
        self,
        runner: Runner,
        sampler: Sampler,
        limits: SchedulerLimits,
        *,
        prefix_caching: bool = True,
        draft: Draft | None = None,
    ) -> None:
        self._runner, self._sampler, self._draft = runner, sampler, draft
        self._prefix_caching = prefix_caching
        self._limits = limits
        self.scheduler = Scheduler(self._new_blocks(), limits)
        self._sequences: dict[str, Sequence] = {}
        self._num_steps = self._num_forward_tokens = self._num_failed_steps = 0
        self._num_drafted = self._num_accepted = 0

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._runner.device

    @property
    def num_held(self) -> int:
        """Requests that run or wait."""
        return len(self._sequences)

    @property
    def is_busy(self) -> bool:
        """True while a request runs or waits."""
        return bool(self._sequences)

    def add(self, request: Request) -> None:
        """Queues a request."""
        try:
            sequence = Sequence(request, self._key_length(request))
        except Exception as error:  # its grammar
            request.sink.failed(GenerationError(f"{type(error).__name__}: {error}"))
            return
        self.scheduler.add(sequence)
        self._sequences[request.request_id] = sequence

    def _key_length(self, request: Request) -> int | None:
        rope = getattr(getattr(self._runner.model, "config", None), "rope", None)
        return None if rope is None else rope.key_length(len(request.prompt_ids))

    def cancel(self, request_id: str, error: AtollError) -> None:
        """Ends a request with an error and frees its blocks; nothing happens if it has ended."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._fail(sequence, error)

    def cancel_all(self, error: AtollError) -> None:
        """Ends every request, whatever state they are in. Never raises."""
        for sequence in list(self._sequences.values()):
            try:
                self._fail(sequence, error)
            except Exception:
                logger.exception("request %s left something", sequence.request.request_id)

    def restart(self, error: AtollError) -> None:
        """Ends every request; nothing that the scheduler or the cache held is relied on again."""
        self.cancel_all(error)
        self._runner.reset()
        self.scheduler = Scheduler(self._new_blocks(), self._limits)

    def step(self) -> None:
        """Schedules, computes, chooses and delivers; never raises for a request's sake."""
        plan: list[ScheduledSequence] = []
        try:
            plan += self.scheduler.schedule(self._draft)
            for sequence in self.scheduler.take_unfit():
                self._fail(sequence, self._no_room(sequence))
            output = self._runner.forward(plan) if plan else None
            sampled = self._sample(plan, output) if output else []
            self._advance(plan, sampled)
        except Exception as error:
            self._recover(plan, error)

    @torch.inference_mode()
    def _sample(self, plan: list[ScheduledSequence], output: StepOutput) -> list[Sampled]:
        """Tokens of the sequences that reached the end of their text, in the plan's order."""
        start = 0
        for sequence, count, _ in plan:
            if sequence.wants_prompt_logprobs:
                self._score_prompt(sequence, output.hidden[start : start + count])
            start += count
        sequences = [item.sequence for item in plan if item.samples]
        return self._sampler.sample(sequences, output.logits) if sequences else []

    def _score_prompt(self, sequence: Sequence, hidden: Tensor) -> None:
        """Log-probabilities of the prompt tokens that follow this chunk's rows."""
        first = sequence.num_computed_tokens
        if first == 0:
            sequence.prompt_logprobs = [Token(sequence.token_ids[0])]
        following = sequence.token_ids[first + 1 : first + 1 + len(hidden)]
        count = sequence.request.options.prompt_top_logprobs
        sequence.prompt_logprobs += prompt_logprobs(
            hidden, self._runner.model.logits, following, count
        )

    def _advance(self, plan: list[ScheduledSequence], sampled: list[Sampled]) -> None:
        """Records what is cached, hands the tokens out, and ends what has come to its end."""
        results = iter(sampled)
        for sequence, count, samples in plan:
            self._num_forward_tokens += count
            if not samples:
                self.scheduler.advance(sequence, count)
                continue
            tokens = next(results)
            if isinstance(tokens, AtollError):
                self._fail(sequence, tokens)
                continue
            # Of the draft, only what was accepted counts as computed.
            num_guessed, num_right = len(sequence.draft), len(tokens) - 1
            self._num_drafted += num_guessed
            self._num_accepted += num_right
            try:
                self._deliver(sequence, tokens, count - num_guessed)
            except ValidationError as error:  # of the options that it was asked with
                self._fail(sequence, error)
            except Exception as error:  # its sink or its grammar: the others have no part in it
                logger.exception("request %s failed", sequence.request.request_id)
                self._fail(sequence, GenerationError(f"{type(error).__name__}: {error}"))
        self._num_steps += bool(plan)

    def _deliver(self, sequence: Sequence, tokens: list[Token], num_computed: int) -> None:
        """``num_computed`` tokens came from the text; each further one is an accepted guess."""
        sequence.draft = []
        if sequence.first_token is None:
            sequence.first_token = time.monotonic()
            if sequence.wants_prompt_logprobs:
                sequence.request.sink.prompt(sequence.prompt_logprobs)
        reason = None
        for index, token in enumerate(tokens):
            self.scheduler.advance(sequence, num_computed if index == 0 else 1)
            sequence.token_ids.append(token.id)
            reason = self._accept(sequence, token)
            if reason is not None:
                break
        if reason is not None:
            del self._sequences[sequence.request.request_id]
            self.scheduler.finish(sequence)
            sequence.request.sink.finished(sequence.outcome(reason))

    def _accept(self, sequence: Sequence, token: Token) -> FinishReason | None:
        """Hands a token to the sink; returns why the text ends with it, if it does."""
        options = sequence.request.options
        if sequence.matcher is not None:
            sequence.matcher.advance(token.id)
        stopped = sequence.request.sink.accept(token)
        if token.id in options.ending_token_ids:
            is_eos = token.id in options.eos_token_ids
            return FinishReason.EOS if is_eos else FinishReason.STOP
        if sequence.matcher is not None and sequence.matcher.is_done:
            return FinishReason.EOS
        if stopped:
            return FinishReason.STOP
        if sequence.num_output_tokens >= options.max_new_tokens:
            return FinishReason.LENGTH
        return None

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        try:
            if self._sequences.pop(sequence.request.request_id, None) is not None:
                self.scheduler.drop(sequence)
        finally:
            sequence.request.sink.failed(error)

    def _recover(self, plan: list[ScheduledSequence], error: Exception) -> None:
        """Fails the requests of the step (all that run, if it never came to a plan)."""
        logger.exception("a step of the engine failed; its requests end and the cache is emptied")
        self._num_failed_steps += 1
        failure = GenerationError(f"the generation step failed: {type(error).__name__}: {error}")
        affected = [item.sequence for item in plan] or list(self.scheduler.running)
        for sequence in affected:
            if sequence.request.request_id in self._sequences:  # not ended earlier in the step
                self._fail(sequence, failure)
        self._runner.reset()
        self.scheduler.reset(self._new_blocks())

    def _no_room(self, sequence: Sequence) -> ValidationError:
        blocks, encoder_ids = self.scheduler.blocks, sequence.request.encoder_ids
        needed = [blocks.num_blocks_for(n) for n in (len(encoder_ids), sequence.num_tokens + 1)]
        return ValidationError(
            f"the request needs {sum(needed)} blocks of {blocks.block_size} tokens; the KV cache "
            f"has {blocks.num_blocks}"
        )

    def _new_blocks(self) -> BlockManager:
        runner = self._runner
        return BlockManager(runner.num_blocks, runner.block_size, self._prefix_caching)

    def stats(self) -> EngineStats:
        """Reads counters only; may be called from any thread."""
        scheduler, blocks = self.scheduler, self.scheduler.blocks
        return EngineStats(
            num_blocks=blocks.num_blocks,
            num_used_blocks=blocks.num_used,
            num_cached_blocks=blocks.num_cached,
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_parked=len(scheduler.parking),
            num_steps=self._num_steps,
            num_forward_tokens=self._num_forward_tokens,
            num_preemptions=scheduler.num_preemptions,
            num_evicted_blocks=blocks.stats.num_evicted,
            num_queried_tokens=blocks.stats.num_queried_tokens,
            num_hit_tokens=blocks.stats.num_hit_tokens,
            num_drafted_tokens=self._num_drafted,
            num_accepted_tokens=self._num_accepted,
            num_failed_steps=self._num_failed_steps,
        )
