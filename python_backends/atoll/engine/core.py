"""The engine without its thread: takes requests, runs steps, and delivers tokens to the sinks.

Not thread-safe; ``engine.Engine`` runs it on its own thread. If a step fails, its requests end with
the error and the cache is cleared, since it is unknown what the step has written.

    schedule -> StepPlan -> build -> StepInput -> runner -> StepOutput -> apply -> finishes
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence

from atoll.engine.beams import Searches, deliver
from atoll.engine.kv_cache import KVCacheManager
from atoll.engine.limits import EngineLimits
from atoll.engine.output import Finish, missing_token, no_room, read_prompts, read_tokens
from atoll.engine.plan import PlannedRequest, StepPlan
from atoll.engine.request import FinishReason, Request, RequestState, Token
from atoll.engine.runner import Runner
from atoll.engine.scheduler import Scheduler
from atoll.engine.state_slots import StateSlots
from atoll.engine.stats import EngineStats, StepCounts, read_stats
from atoll.engine.step_builder import StepInputBuilder
from atoll.errors import AtollError, GenerationError, RankLost, ValidationError
from atoll.runner.step_input import StepOutput
from atoll.sampling.inputs import Candidates

logger = logging.getLogger(__name__)

Draft = Callable[[RequestState], list[int]]


class EngineCore:
    """The scheduler, the runner and the requests in progress."""

    def __init__(
        self,
        runner: Runner,
        limits: EngineLimits,
        *,
        prefix_caching: bool = True,
        draft: Draft | None = None,
    ) -> None:
        self._runner, self._draft = runner, draft
        # Blocks cannot be shared without the states at their ends.
        self._prefix_caching = prefix_caching and (
            runner.num_state_slots == 0 or runner.num_snapshots > 0
        )
        self._limits = limits
        self.scheduler = self._new_scheduler()
        self._builder = StepInputBuilder(runner.block_size)
        self._states: dict[str, RequestState] = {}  # of a search, any of its beams
        self._searches = Searches()
        self._counts = StepCounts()

    @property
    def num_held(self) -> int:
        """Requests that run or wait."""
        return len(self._states)

    @property
    def is_busy(self) -> bool:
        """True while a request runs or waits."""
        return bool(self._states)

    def enter_thread(self) -> None:
        """Must be called first by the thread that calls ``step``."""
        self._runner.enter_thread()

    def watch(self, on_failed: Callable[[RankLost], None]) -> None:
        """``on_failed`` is called, on another thread, when what computes the steps is lost."""
        self._runner.watch(on_failed)

    def close(self) -> None:
        """Ends what computes the steps; to be called after the last one."""
        self._runner.close()

    def add(self, request: Request) -> None:
        """Queues a request."""
        try:
            sequence = RequestState(
                request, self._runner.key_length(len(request.prompt_ids)),
                num_groups=len(self._runner.windows),
                adapter=self._runner.adapter_number(request.adapter_id),
            )  # fmt: skip
        except Exception as error:  # its grammar, or its adapter
            own = error if isinstance(error, ValidationError) else None
            request.sink.on_failed(own or GenerationError(f"{type(error).__name__}: {error}"))
            return
        self.scheduler.add(sequence)
        self._states[request.request_id] = sequence

    def uses_adapter(self, number: int) -> bool:
        """Whether a request that runs or waits has this adapter."""
        return any(state.adapter == number for state in self._states.values())

    def finish(self, request: Request, num_output_tokens: int) -> None:
        """Ends a request after ``num_output_tokens``, because its text contains a stop string.

        Tokens computed beyond them are discarded, even if the request has ended in the meantime.
        """
        sequence = self._states.get(request.request_id)
        if sequence is not None:
            sequence.cut(num_output_tokens)
            self._end([Finish(sequence, FinishReason.STOP)])
        elif request.session_id is not None:
            num_tokens = len(request.prompt_ids) + num_output_tokens - 1
            self.scheduler.session_cache.shorten(request.session_id, num_tokens)

    def cancel(self, request_id: str, error: AtollError) -> None:
        """Ends a request with an error and frees its blocks; does nothing if it has ended."""
        if (sequence := self._states.get(request_id)) is not None:
            self._fail(sequence, error)

    def cancel_all(self, error: AtollError) -> None:
        """Ends every request, whatever its state. Never raises."""
        for sequence in list(self._states.values()):
            try:
                self._fail(sequence, error)
            except Exception:
                logger.exception("request %s left something", sequence.request.request_id)

    def restart(self, error: AtollError) -> None:
        """Ends every request, and replaces the scheduler and the cache."""
        self.cancel_all(error)
        self._runner.reset()
        self.scheduler = self._new_scheduler()

    def step(self) -> None:
        """Schedules, computes, samples and delivers; an error ends the affected requests.

        Raises:
            RankLost: nothing can be computed any more.
        """
        plan: StepPlan = []
        try:
            plan = self.scheduler.schedule(self._draft)
            for sequence in self.scheduler.take_unfit():
                self._fail(sequence, no_room(sequence, self.scheduler.cache))
            if plan:
                began = time.monotonic()
                step_input = self._builder.build(plan, self._states)
                self._end(self.apply(plan, self._runner.run(step_input)))
                self.scheduler.fair.measured(plan, time.monotonic() - began)
        except RankLost:
            raise
        except Exception as error:
            self._recover(plan, error)

    def apply(self, plan: StepPlan, output: StepOutput) -> list[Finish]:
        """Records what is cached and delivers the tokens; returns finished requests."""
        self._counts.num_steps += 1
        read_prompts(plan, self._states, output.prompts)
        sampled = output.sampled
        tokens = read_tokens(sampled.token_ids, sampled.logprobs) if sampled else []
        counts = iter(sampled.num_accepted.tolist() if sampled else ())
        finishes, start = list[Finish](), 0
        beam_rows, places = dict[str, list[int]](), itertools.count()
        for row in plan:
            self._counts.num_forward_tokens += row.num_new_tokens
            num_given = next(counts) if row.samples else 0
            given = tokens[start : start + max(num_given, 0)]
            start += len(given)
            place = next(places) if row.samples and row.beam >= 0 else None
            sequence = self._states.get(row.request_id)
            if sequence is None:  # ended by another request's sink
                continue
            if not row.samples or (place is not None and num_given != 0):
                sequence = sequence.members[row.beam]
                self.scheduler.settle(sequence, row, 0)
                self.scheduler.advance(sequence, row.num_new_tokens)
                if place is not None:
                    beam_rows.setdefault(row.request_id, []).append(place)
                continue
            if not given:
                self._fail(sequence, missing_token(sequence, num_given))
                continue
            self._counts.drafted(sequence, len(row.draft), len(given) - 1)
            try:
                reason = self._deliver(sequence, given, row)
            except ValidationError as error:  # caused by the request's own options
                self._fail(sequence, error)
            except Exception as error:
                self._fail_alone(sequence, error)
            else:
                finishes += [] if reason is None else [Finish(sequence, reason)]
        for request_id, rows in beam_rows.items():
            assert sampled is not None and sampled.candidates is not None
            self._search(request_id, rows, sampled.candidates)
        return finishes

    def _search(self, request_id: str, rows: list[int], found: Candidates) -> None:
        """Chooses a search's next beams, or ends it. rows: of its beams, among the candidates."""
        sequence = self._states.get(request_id)
        if sequence is None:  # a beam had no finite logits, or it was ended in the meantime
            return
        try:
            answers = self._searches.advance(self.scheduler, sequence.beams, rows, found)
            if answers:
                best = sequence.beams[0]
                del self._states[request_id]
                self.scheduler.drop(sequence)
                deliver(best, answers)
        except ValidationError as error:  # caused by the request's own options
            self._fail(sequence, error)
        except Exception as error:
            self._fail_alone(sequence, error)

    def _end(self, finishes: Sequence[Finish]) -> None:
        """Ends requests that have all of their tokens."""
        for sequence, reason in finishes:
            request = sequence.request
            try:
                del self._states[request.request_id]
                self.scheduler.finish(sequence)
                request.sink.on_finished(sequence.outcome(reason))
            except Exception as error:
                self._fail_alone(sequence, error)

    def _deliver(
        self, sequence: RequestState, tokens: list[Token], row: PlannedRequest
    ) -> FinishReason | None:
        """Appends and delivers the new tokens: one, and one more for each accepted draft token.

        Rejected draft tokens do not count as computed, nor does anything where a state is back at
        the step's beginning. Returns the finish reason, if there is one.
        """
        num_computed = row.num_new_tokens - len(row.draft)
        is_kept = self.scheduler.settle(sequence, row, len(tokens) - 1)
        sequence.draft = []
        if sequence.request.progress.first_token is None:
            sequence.request.progress.first_token = time.monotonic()
            if sequence.wants_prompt_logprobs:
                sequence.request.sink.on_prompt(sequence.prompt_logprobs)
        for index, token in enumerate(tokens):
            if is_kept:
                self.scheduler.advance(sequence, num_computed if index == 0 else 1)
            sequence.token_ids.append(token.id)
            reason = self._accept(sequence, token)
            if reason is not None:
                return reason
        return None

    def _accept(self, sequence: RequestState, token: Token) -> FinishReason | None:
        """Passes a token to the sink; returns the finish reason if the text ends with it."""
        options = sequence.request.options
        if sequence.matcher is not None:
            sequence.matcher.advance(token.id)
        sequence.request.sink.on_token(token)
        reason = options.ends_with(token.id)
        is_full = sequence.num_output_tokens >= options.max_new_tokens
        if reason is not None and not (is_full and token.id == options.forced_eos_token_id):
            return reason
        if sequence.matcher is not None and sequence.matcher.is_done:
            return FinishReason.EOS
        return FinishReason.LENGTH if is_full else None

    def _fail(self, sequence: RequestState, error: Exception) -> None:
        try:
            if self._states.pop(sequence.request.request_id, None) is not None:
                self.scheduler.drop(sequence)
        finally:
            for sink in sequence.request.sinks:
                sink.on_failed(error)

    def _fail_alone(self, sequence: RequestState, error: Exception) -> None:
        """Ends a request whose sink or grammar has failed; other requests are not affected."""
        logger.exception("request %s failed", sequence.request.request_id)
        self._fail(sequence, GenerationError(f"{type(error).__name__}: {error}"))

    def _recover(self, plan: StepPlan, error: Exception) -> None:
        """Fails the requests of the step, or all running ones if there was no plan yet."""
        logger.exception("a step of the engine failed; its requests end and the cache is emptied")
        self._counts.num_failed_steps += 1
        failure = GenerationError(f"the generation step failed: {type(error).__name__}: {error}")
        planned = [row.request_id for row in plan]
        for request_id in planned or [s.request.request_id for s in self.scheduler.running]:
            if request_id in self._states:  # it may have ended earlier in the step
                self._fail(self._states[request_id], failure)
        self._runner.reset()
        self.scheduler.reset(self._new_cache(), self._new_states())

    def _new_scheduler(self) -> Scheduler:
        return Scheduler(self._new_cache(), self._limits, self._new_states())

    def _new_states(self) -> StateSlots:
        return StateSlots(self._runner.num_state_slots, self._runner.num_snapshots)

    def _new_cache(self) -> KVCacheManager:
        runner = self._runner
        return KVCacheManager(
            runner.windows, runner.num_blocks, runner.block_size, self._prefix_caching
        )

    def stats(self) -> EngineStats:
        """Reads counters only; may be called from any thread."""
        return read_stats(self.scheduler, self._counts)
