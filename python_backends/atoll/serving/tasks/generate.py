"""Text generation as a decoupled Triton model: tensors to engine requests, answers to responses.

``execute`` checks, tokenizes, enqueues and returns; tokens leave through the response streamer.
Every request gets exactly one response with FINAL, whatever happens to it.
"""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from atoll.errors import Cancelled, Overloaded, ValidationError
from atoll.sampling.grammar import GrammarCompiler, read_constraint
from atoll.serving.admission import Admission
from atoll.serving.answer_stream import sender_of
from atoll.serving.engine_loader import load_engine
from atoll.serving.model_ops import ModelOps
from atoll.serving.preparation import PreparationPool
from atoll.serving.requests.generation_request import Completion, GenerationRequest
from atoll.serving.requests.limits import TIMEOUT, fitted, time_limit
from atoll.serving.requests.option_names import ALIASES, NAMES, NEUTRAL
from atoll.serving.requests.output_flags import FLAGS, Flags, read_flags, returned_by
from atoll.serving.requests.prompts import Prompt
from atoll.serving.requests.sampling_options import (
    DEFAULT_MAX_TOKENS,
    GenerateOptions,
    read_options,
)
from atoll.serving.robust_mutexes import end_without_marks
from atoll.serving.submission import Submission, cancel
from atoll.serving.triton import tensors
from atoll.serving.triton.auto_complete import complete
from atoll.serving.triton.generate_metrics import GenerateMetrics
from atoll.serving.triton.instance import (
    checkpoint_folder,
    end_without_teardown,
    in_temporary_thread,
    instance_settings,
)
from atoll.serving.triton.response_sender import ResponseSender, TritonResponseSender
from atoll.serving.triton.response_streamer import ResponseStreamer
from atoll.serving.triton.shutdown import Shutdown
from atoll.text.answer import AnswerText
from atoll.text.chat import ChatTemplate
from atoll.text.detokenizer import Detokenizer
from atoll.text.stop_strings import StopStrings
from atoll.text.tokenizer import Tokenizer

# Names the conversation whose key-value blocks are taken over and kept: see serving.session.
_SESSION = "session_id"
# Longer prompts are tokenized on a thread: 2 MB take seconds, and no other request could start.
_INLINE_CHARACTERS = 16384
_PARAMETERS = frozenset({*NAMES, *ALIASES, *NEUTRAL, *FLAGS, _SESSION, TIMEOUT, tensors.ANSWERS_TO})


class GenerateModel:
    """What ``model.py`` exports as ``TritonPythonModel``."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Called by Triton before ``initialize``, in a process of its own."""
        return complete(config, "generate")

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the model and starts the engine; an exception here is shown by the server."""
        end_without_teardown()
        end_without_marks()
        self.settings = instance_settings(args, "generate")
        folder = checkpoint_folder(args, self.settings)
        self.tokenizer = Tokenizer.load(folder)
        self.template = ChatTemplate.load(folder, self.tokenizer)
        self.metrics = GenerateMetrics(args["model_name"])
        self.streamer = ResponseStreamer(
            self.tokenizer.vocabulary, lambda call: cancel(call, self.engine), self.closed,
            self._tick, self._overdue,
        )  # fmt: skip
        loaded = in_temporary_thread(
            load_engine, self.settings, folder, on_step=self.streamer.flush
        )
        self.engine, self.limits, self.adapters = loaded.engine, loaded.limits, loaded.adapters
        facts = {
            "task": "generate", "model_version": args["model_version"], **loaded.facts,
        }  # fmt: skip
        self.control = ModelOps(
            self.settings, self.tokenizer, facts,
            chat=self.template, is_batched=False, cancel=self.cancel, forget=self.forget,
        )  # fmt: skip
        self.grammars = GrammarCompiler(self.tokenizer, self.limits.vocab_size)
        self.admission = Admission(self.settings.max_concurrent_requests)
        self.preparation = PreparationPool()
        self._ids = itertools.count()
        self._sessions: WeakValueDictionary[str, GenerationRequest] = WeakValueDictionary()
        self._requests: WeakValueDictionary[str, GenerationRequest] = WeakValueDictionary()
        self.engine.start()
        self.streamer.start()
        self.ending = Shutdown(self._end)

    def execute(self, requests: list[Any]) -> None:
        """Never blocks and never raises: a request that cannot start is answered at once."""
        for request in requests:
            own = TritonResponseSender(request)
            sender: ResponseSender = own
            try:
                sender = sender_of(own)
                if not self.control.answer(request, sender, self._refuse):
                    self.start(request, sender)
            except Exception as error:
                self._refuse(sender, error)

    def finalize(self) -> None:
        """Ends what is running with an error, and the threads."""
        self.ending.finish()
        self.metrics.close()

    def _end(self) -> None:
        self.control.close()
        self.preparation.close()
        self.engine.stop()
        self.streamer.stop()

    def start(self, request: Any, sender: ResponseSender) -> None:
        """Takes a request in and hands it to the engine, by way of the preparation pool if its
        prompt is long or it has a grammar.

        Raises:
            ValidationError, Overloaded: it was not taken in. Whatever happens to it from then on is
                told to its call.
        """
        prompt = Prompt.read(request)
        parameters = tensors.parameters(request, _PARAMETERS)
        session_id = parameters.pop(_SESSION, None)
        parameters.pop(tensors.ANSWERS_TO, None)
        limit_s = time_limit(request, parameters, self.settings.max_request_s)
        flags, options = self.read(request, parameters, prompt)
        constraint = None if options.grammar is None else read_constraint(*options.grammar)
        call = self._call(sender, flags, options, limit_s)
        self.admission.enter(call.num_answers)
        if session_id is not None:
            self._sessions[session_id] = call
        if request_id := request.request_id():
            self._requests[request_id] = call
        self.metrics.opened(call)
        self.streamer.open(call)
        prepare = partial(self._prepare, call, flags, options, prompt, session_id, constraint)
        try:
            if constraint is None and prompt.num_characters <= _INLINE_CHARACTERS:
                prepare()
            else:
                self.preparation.submit(call, prepare)
        except Exception as error:
            call.fail(error)

    def _prepare(
        self,
        call: GenerationRequest,
        flags: Flags,
        options: GenerateOptions,
        prompt: Prompt,
        session_id: str | None,
        constraint: tuple[str, str] | None,
    ) -> None:
        """On any thread: makes a prompt and options what the engine takes, and submits them."""
        prompt_ids = prompt.tokenize(self.tokenizer, self.template, options, self.limits)
        options = fitted(options, prompt.name, len(prompt_ids), self.limits, flags)
        grammar = None if constraint is None else self.grammars.compile(*constraint)
        self._complete(call, flags, options, prompt, prompt_ids)
        ids, encoder_ids = tuple(prompt_ids), tuple[int, ...]()
        if self.limits.decoder_start_token_id is not None:
            # An encoder-decoder reads the prompt and begins the answer afresh.
            ids, encoder_ids = (self.limits.decoder_start_token_id,), ids
        submission = Submission(
            call, ids, options.sampling, encoder_ids, options.adapter_id, session_id
        )
        submission.start(self.engine, grammar)

    def cancel(self, request_id: str) -> bool:
        """Ends a request that nobody waits for; False: none with this id is being answered."""
        call = self._requests.get(request_id)
        if call is None or call.is_done:
            return False
        call.fail(Cancelled("the request was cancelled"))
        return True

    def forget(self, session_id: str) -> None:
        """Ends what is being answered in a conversation and frees its blocks."""
        call = self._sessions.pop(session_id, None)
        if call is not None:
            call.fail(Cancelled("the conversation was forgotten"))
        self.engine.forget_session(session_id)

    def read(
        self, request: Any, parameters: dict[str, Any], prompt: Prompt
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
            vocab_size=self.limits.vocab_size,
        )
        return flags, _without(options, self.limits.banned_tokens)

    def closed(self, call: GenerationRequest) -> None:
        """A call has had its last response."""
        self.admission.leave(call.num_answers)
        self.metrics.closed(call)

    def _refuse(self, sender: ResponseSender, error: BaseException) -> None:
        """Answers a request that was not started."""
        if not sender.is_canary:
            self.metrics.refused(error)
        sender.fail(error)

    def _call(
        self, sender: ResponseSender, flags: Flags, options: GenerateOptions, limit_s: float | None
    ) -> GenerationRequest:
        """The call of a request that can be answered, as far as can be told without its tokens."""
        self._check_adapter(options.adapter_id)
        stream = bool(flags["stream"])
        if stream and options.best_of > 1:
            raise ValidationError(f"n or best_of is {options.best_of}; a stream has one answer")
        if stream and flags["exclude_input_in_output"] is False:
            raise ValidationError("exclude_input_in_output is false; a stream has no input")
        returned = returned_by(flags, options)
        return GenerationRequest(
            str(next(self._ids)), sender, stream=stream, num_answers=options.best_of,
            num_returned=options.n, returned=returned, limit_s=limit_s,
            on_change=self.streamer.changed,
        )  # fmt: skip

    def _complete(
        self,
        call: GenerationRequest,
        flags: Flags,
        options: GenerateOptions,
        prompt: Prompt,
        prompt_ids: list[int],
    ) -> None:
        """Fills in what follows from the prompt's tokens."""
        call.num_input_tokens = len(prompt_ids)
        if flags["exclude_input_in_output"] is False:
            call.prefix = prompt.text or self.tokenizer.decode(prompt_ids)
        is_decoder = self.limits.decoder_start_token_id is None
        if call.returned.prompt_logprobs:
            # The decoder's start is all of an encoder-decoder's prompt that has tokens here.
            call.prompt_texts = (
                prompt.token_texts(self.tokenizer, self.template, options, prompt_ids)
                if is_decoder
                else [""]
            )
        before = prompt_ids if is_decoder else []
        choices = []
        for _ in range(options.best_of):
            detokenizer = Detokenizer(self.tokenizer, before, options.skip_special_tokens)
            stops = StopStrings(options.stop, options.include_stop, options.sampling.min_new_tokens)
            answer = AnswerText(detokenizer, stops, self.tokenizer.cleans_up)
            choices.append(Completion(call, answer))
        call.choices = choices

    def _check_adapter(self, adapter_id: str | None) -> None:
        if self.adapters is not None:
            self.adapters.check(adapter_id)
        elif adapter_id is not None:
            raise ValidationError(f"adapter_id is {adapter_id!r}; no adapters are loaded")

    def _overdue(self, call: GenerationRequest, waited_s: float) -> Exception | None:
        limit_s = self.settings.max_preparation_s
        if not call.choices and waited_s > limit_s:
            if call.is_preparing:
                return ValidationError(
                    f"the request's grammar or prompt took more than max_preparation_s, "
                    f"{limit_s:g} s, to be made ready: make it smaller"
                )
            return Overloaded(
                f"other requests' grammars and prompts took {waited_s:.0f} s; max_preparation_s is "
                f"{limit_s:g}"
            )
        if call.limit_s is not None and waited_s > call.limit_s:
            return Cancelled(f"the request's time is over, {call.limit_s:g} s")
        return None

    def _tick(self) -> None:
        self.preparation.relieve()
        self.metrics.update(self.engine.stats())


def _without(options: GenerateOptions, banned: tuple[int, ...]) -> GenerateOptions:
    """The options with tokens that no answer may hold."""
    if not banned:
        return options
    bias = (*options.sampling.logit_bias, *((token, float("-inf")) for token in banned))
    sampling = dataclasses.replace(options.sampling, logit_bias=bias)
    return dataclasses.replace(options, sampling=sampling)
