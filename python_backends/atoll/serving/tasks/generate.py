"""Text generation as a decoupled Triton model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from atoll.engine.grammar import Grammar
from atoll.engine.request import Request, SamplingOptions
from atoll.errors import Cancelled, Overloaded, RankLost, ValidationError
from atoll.sampling.after_reasoning import AfterReasoning
from atoll.sampling.grammar import GrammarCompiler
from atoll.sampling.grammar_forms import read_constraint
from atoll.serving.adapter_ops import AdapterOps
from atoll.serving.answer_stream import sender_of
from atoll.serving.engine_loader import load_engine
from atoll.serving.requests.generation_request import Completion, Generation, GenerationRequest
from atoll.serving.requests.limits import TIMEOUT, time_limit
from atoll.serving.requests.option_names import ALIASES, NAMES, NEUTRAL
from atoll.serving.requests.output_flags import FLAGS, Flags, read_flags
from atoll.serving.requests.priority import CANARY_PRIORITY
from atoll.serving.requests.prompts import Prompt, PromptEncoder
from atoll.serving.requests.responses import responses
from atoll.serving.requests.sampling_options import (
    DEFAULT_MAX_TOKENS,
    GenerateOptions,
    fitted,
    read_options,
)
from atoll.serving.tasks.checkpoint_model import CheckpointModel
from atoll.serving.tasks.served_model import Effort
from atoll.serving.triton import tensors
from atoll.serving.triton.generate_metrics import GenerateMetrics
from atoll.serving.triton.instance import end_at_once, in_temporary_thread
from atoll.serving.triton.response_sender import ResponseSender, TritonResponseSender
from atoll.text.answer import AnswerText
from atoll.text.chat import ChatTemplate
from atoll.text.chat_formats import facts
from atoll.text.detokenizer import Detokenizer
from atoll.text.stop_strings import StopStrings

# The conversation whose KV blocks are reused and kept: see ``tasks.session``.
_SESSION = "session_id"
# Longer prompts are tokenized in the pool: 2 MB take seconds, and would block other requests.
_INLINE_CHARACTERS = 16384
_NUM_PREPARING = 2
# A process whose ranks are lost answers within it, or not at all.
_ANSWER_S = 2.0
_PARAMETERS = frozenset({*NAMES, *ALIASES, *NEUTRAL, *FLAGS, _SESSION, TIMEOUT, tensors.ANSWERS_TO})


class GenerateModel(CheckpointModel[GenerationRequest]):
    """What ``model.py`` exports as ``TritonPythonModel``."""

    task = "generate"
    is_batched = False
    is_decoupled = True
    cancelled = "the request was cancelled"

    def initialize(self, args: dict[str, str]) -> None:
        """See ``ServedModel``."""
        folder = self.open_checkpoint(args)
        template = ChatTemplate.load(folder, self.tokenizer)
        formats = facts(
            {} if template is None else template.variants,
            self.settings.tool_call_parser, self.settings.reasoning_parser,
        )  # fmt: skip
        self.metrics = GenerateMetrics(args["model_name"])
        loaded = in_temporary_thread(load_engine, self.settings, folder, self.streamer.wake)
        self.engine, self.limits, self.adapters = loaded.engine, loaded.limits, loaded.adapters
        self.prompts = PromptEncoder(self.tokenizer, template, self.limits)
        self.grammars = GrammarCompiler(self.tokenizer, self.limits.vocab_size)
        self._names = map(str, itertools.count())
        self._sessions: WeakValueDictionary[str, GenerationRequest] = WeakValueDictionary()
        adapter_ops = AdapterOps(loaded.engine, loaded.adapters)
        self.serve(
            args, self.engine, self.metrics, {**loaded.facts, **formats, **self._language_facts()},
            num_preparing=_NUM_PREPARING, chat=template, forget=self.forget,
            compile_regex=partial(self.grammars.compile, "regex"),
            changes=adapter_ops.operations(),
        )  # fmt: skip
        self.ops.current = adapter_ops.facts
        self.engine.watch(self.lost)

    def lost(self, error: RankLost) -> None:
        """A rank is lost, and the model with it: answers what is open, and ends the process, for
        a new one to load the model again."""
        self.engine.give_up(str(error))
        self.streamer.abandon(error, _ANSWER_S)
        end_at_once(1)

    def sender(self, own: TritonResponseSender) -> ResponseSender:
        """See ``ServedModel``: a conversation's turn names another one."""
        return sender_of(own)

    def read_request(
        self, request: Any, parameters: Mapping[str, Any], sender: ResponseSender
    ) -> GenerationRequest:
        """See ``ServedModel``."""
        prompt = Prompt.read(request)
        given = tensors.own_parameters(parameters, _PARAMETERS)
        session_id = given.pop(_SESSION, None)
        given.pop(tensors.ANSWERS_TO, None)
        limit_s = time_limit(request, given, self.settings.max_request_s)
        flags, options = self._read_options(request, given, prompt, session_id is not None)
        constraint = None if options.grammar is None else read_constraint(*options.grammar)
        asked = Generation(prompt, options, flags, constraint, session_id)
        return GenerationRequest(next(self._names), asked, sender, self.streamer, limit_s)

    def effort(self, request: GenerationRequest) -> Effort:
        """See ``ServedModel``."""
        asked = request.asked
        num_characters = asked.prompt.num_characters + len(asked.options.prediction or "")
        is_little = asked.constraint is None and num_characters <= _INLINE_CHARACTERS
        return Effort.LITTLE if is_little else Effort.ORDINARY

    def prepare(self, request: GenerationRequest) -> None:
        """See ``ServedModel``."""
        asked, limits = request.asked, self.limits
        prompt_ids, state = self.prompts.encode(asked.prompt, asked.options)
        start = self.prompts.answer_start(asked.options)
        options = fitted(
            asked.options, asked.prompt.name, len(prompt_ids), limits, asked.flags, len(start)
        )
        grammar = self._grammar(asked, state, lambda: request.is_done)
        request.reasoning_state = state
        self._complete(request, prompt_ids, options, start)
        ids, encoder_ids = tuple(prompt_ids), tuple[int, ...]()
        if start:
            # An encoder-decoder encodes the prompt; the decoder begins with the answer's start.
            ids, encoder_ids = start, ids
        # Tokens that nothing guesses are of no use.
        predicted = self.prompts.prediction(options) if self.settings.speculate else ()
        is_search = options.sampling.num_beams > 1
        sinks = request.completions
        requests = [
            Request(
                f"{request.name}.{index}",
                ids,
                _seeded(options, index),
                completion,
                adapter_id=options.adapter_id,
                session_id=asked.session_id,
                grammar=grammar,
                encoder_ids=encoder_ids,
                other_sinks=tuple(sinks[1:]) if is_search else (),
                priority=CANARY_PRIORITY if request.sender.is_canary else options.priority,
                prediction_ids=predicted,
                client=None if request.sender.is_canary else request.origin.client,
                arrival=request.arrival,
            )  # fmt: skip
            for index, completion in enumerate(sinks[:1] if is_search else sinks)
        ]
        request.start(self.engine, requests)

    def respond(
        self, request: GenerationRequest, even_if_empty: bool
    ) -> list[dict[str, tensors.Array]]:
        """See ``ServedModel``."""
        return responses(request, self.tokenizer.vocabulary, even_if_empty)

    def forget(self, session_id: str) -> None:
        """Ends a conversation's request, if one is in progress, and frees its blocks."""
        request = self._sessions.pop(session_id, None)
        if request is not None:
            request.fail(Cancelled("the conversation was forgotten"))
        self.engine.forget_session(session_id)

    def overdue(self, request: GenerationRequest, waited_s: float) -> Exception | None:
        """See ``ServedModel``."""
        limit_s = self.settings.max_preparation_s
        if request.completions or waited_s <= limit_s:
            return super().overdue(request, waited_s)
        if request.is_preparing:
            return ValidationError(
                f"the request's grammar or prompt took more than max_preparation_s, "
                f"{limit_s:g} s, to be made ready: make it smaller"
            )
        return Overloaded(
            f"other requests' grammars and prompts took {waited_s:.0f} s; max_preparation_s is "
            f"{limit_s:g}"
        )

    def admit(self, request: GenerationRequest) -> None:
        """See ``ServedModel``."""
        super().admit(request)
        if (session_id := request.asked.session_id) is not None:
            self._sessions[session_id] = request

    def tick(self) -> None:
        """See ``ServedModel``."""
        super().tick()
        self.metrics.update(self.engine.stats())
        if self.adapters.is_leaving:
            self.engine.tell(lambda core: self.adapters.release(core.uses_adapter))

    def _language_facts(self) -> dict[str, list[str]]:
        """The codes that src_lang and tgt_lang may have."""
        languages = self.tokenizer.languages
        return {} if languages is None else {"languages": sorted(languages.ids)}

    def _grammar(
        self, asked: Generation, state: str | None, is_over: Callable[[], bool]
    ) -> Grammar | None:
        """The grammar of an answer, which begins behind its reasoning. state: of the prompt."""
        if asked.constraint is None:
            return None
        grammar = self.grammars.compile(*asked.constraint, is_over)
        marks = asked.options.reasoning
        if marks is None or state is None:
            return grammar
        return AfterReasoning(grammar, self.tokenizer, marks, state)

    def _read_options(
        self, request: Any, parameters: Mapping[str, Any], prompt: Prompt, is_conversation: bool
    ) -> tuple[Flags, GenerateOptions]:
        """A request's flags and options, from its tensors and parameters."""
        flags = read_flags(request, parameters)
        options = read_options(
            tensors.string(request, "sampling_parameters"),
            {k: v for k, v in parameters.items() if k not in FLAGS},
            tensors.strings(request, "stop"),
            self.settings,
            default_max_tokens=DEFAULT_MAX_TOKENS if prompt.messages is None else None,
            eos_token_ids=self.tokenizer.eos_token_ids,
            limits=self.limits,
            is_conversation=is_conversation,
        )
        self.adapters.check(options.adapter_id)
        if flags["stream"] and options.best_of > 1:
            raise ValidationError(f"n or best_of is {options.best_of}; a stream has one answer")
        if flags["stream"] and flags["exclude_input_in_output"] is False:
            raise ValidationError("exclude_input_in_output is false; a stream has no input")
        return flags, options

    def _complete(
        self, request: GenerationRequest, prompt_ids: list[int], options: GenerateOptions,
        start: tuple[int, ...],
    ) -> None:  # fmt: skip
        """Sets the fields that depend on the prompt's tokens. start: of an encoder-decoder."""
        prompt = request.asked.prompt
        request.num_input_tokens = len(prompt_ids)
        if request.asked.flags["exclude_input_in_output"] is False:
            request.prefix = prompt.text or self.tokenizer.decode(prompt_ids)
        if request.returned.prompt_logprobs:
            # The prompt of an encoder-decoder is the answer's start, which has no part in its text.
            request.prompt_texts = (
                [""] * len(start) if start else self.prompts.texts(prompt, options, prompt_ids)
            )
        before = [] if start else prompt_ids
        kept = self.tokenizer.vocabulary.special_ids(options.kept_special_tokens)
        completions = []
        for _ in range(options.best_of):
            detokenizer = Detokenizer(self.tokenizer, before, options.skip_special_tokens, kept)
            stops = StopStrings(options.stop, options.include_stop, options.sampling.min_new_tokens)
            answer = AnswerText(detokenizer, stops, self.tokenizer.cleans_up, self.tokenizer.trims)
            completions.append(Completion(request, answer))
        request.completions = completions


def _seeded(options: GenerateOptions, index: int) -> SamplingOptions:
    """The options of one of several answers, with different seeds."""
    seed = (options.sampling.seed + index) % 2**64
    return dataclasses.replace(options.sampling, seed=seed)
