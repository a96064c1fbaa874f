"""Text generation as a decoupled Triton model: tensors to engine requests, answers to responses.

``execute`` checks, tokenizes, enqueues and returns; tokens leave through the outbox. Every request
gets exactly one response with FINAL, whatever happens to it.
"""

from __future__ import annotations

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakValueDictionary

from atoll.engine.grammar import GrammarCompiler, read_constraint
from atoll.engine.loader import Limits, load_engine
from atoll.errors import Cancelled, ValidationError
from atoll.serving import tensors
from atoll.serving.answers import Call, Choice, Returned
from atoll.serving.completion import complete
from atoll.serving.control import Control
from atoll.serving.generate_metrics import GenerateMetrics
from atoll.serving.loading import instance_settings, on_passing_thread
from atoll.serving.outbox import Outbox
from atoll.serving.prompts import Prompt
from atoll.serving.sampling import ALIASES, DEFAULT_MAX_TOKENS, NAMES, GenerateOptions, read_options
from atoll.serving.sender import Sender
from atoll.serving.submission import Submission, cancel
from atoll.text.answer import AnswerText
from atoll.text.chat import ChatTemplate
from atoll.text.detokenizer import Detokenizer
from atoll.text.stop_strings import StopStrings
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve

# Boolean inputs that may also come as request parameters.
_RETURN_FLAGS = tuple(f"return_{f.name}" for f in dataclasses.fields(Returned))
_FLAGS = ("stream", "exclude_input_in_output", *_RETURN_FLAGS)
# Names the conversation whose key-value blocks are taken over and kept: see serving.session.
_SESSION = "session_id"
# Longer prompts are tokenized on a thread: 2 MB take seconds, and no other request could start.
_INLINE_CHARACTERS = 16384
_PARAMETERS = frozenset({*NAMES, *ALIASES, *_FLAGS, _SESSION})

Flags = dict[str, bool | None]


class GenerateModel:
    """What ``model.py`` exports as ``TritonPythonModel``."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Called by Triton before ``initialize``, in a process of its own."""
        return complete(config, "generate")

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the model and starts the engine; an exception here is shown by the server."""
        self.settings = instance_settings(args)
        folder = resolve(
            self.settings.model_id, self.settings.revision, self.settings.huggingface_hub_cache
        )
        self.tokenizer = Tokenizer.load(folder)
        self.template = ChatTemplate.load(folder, self.tokenizer)
        self.metrics = GenerateMetrics(args["model_name"])
        self.outbox = Outbox(
            self.tokenizer.vocabulary, lambda call: cancel(call, self.engine), self.closed,
            self._tick,
        )  # fmt: skip
        loaded = on_passing_thread(load_engine, self.settings, folder, on_step=self.outbox.flush)
        self.engine, self.limits, self.adapters = loaded.engine, loaded.limits, loaded.adapters
        facts = {"task": "generate", **loaded.facts, **dataclasses.asdict(self.limits)}
        self.control = Control(
            self.settings, self.tokenizer, facts,
            chat=self.template, is_batched=False, cancel=self.cancel, forget=self.forget,
        )  # fmt: skip
        self.grammars = GrammarCompiler(self.tokenizer, self.limits.vocab_size)
        self._compiling = ThreadPoolExecutor(1, "atoll-grammar")
        self._reading = ThreadPoolExecutor(1, "atoll-prompts")
        self._ids = itertools.count()
        self._sessions: WeakValueDictionary[str, Call] = WeakValueDictionary()
        self._requests: WeakValueDictionary[str, Call] = WeakValueDictionary()
        self.engine.start()
        self.outbox.start()

    def execute(self, requests: list[Any]) -> None:
        """Never blocks and never raises: a request that cannot start is answered at once."""
        for request in requests:
            sender = Sender(request)
            try:
                if not self.control.answer(request, sender, self._refuse):
                    self.start(request, sender)
            except Exception as error:
                self._refuse(sender, error)

    def finalize(self) -> None:
        """Ends what is running with an error, and the threads."""
        self.control.close()
        self._reading.shutdown()
        self._compiling.shutdown(cancel_futures=True)
        self.engine.stop()
        self.outbox.stop()
        self.metrics.close()

    def start(self, request: Any, sender: Sender) -> None:
        """Reads a request and hands it to the engine; a long prompt's tokens are made on a thread.

        Raises:
            ValidationError, Overloaded, NotReady: nothing was submitted.
        """
        prompt = Prompt.read(request)
        parameters = tensors.parameters(request, _PARAMETERS)
        session_id = parameters.pop(_SESSION, None)
        flags, options = self.read(request, parameters, prompt)
        names = session_id, request.request_id()
        if prompt.num_characters <= _INLINE_CHARACTERS:
            self._start(sender, flags, options, prompt, *names)
        else:
            self._reading.submit(self._start_apart, sender, flags, options, prompt, *names)

    def _start(
        self,
        sender: Sender,
        flags: Flags,
        options: GenerateOptions,
        prompt: Prompt,
        session_id: str | None,
        request_id: str,
    ) -> None:
        prompt_ids = prompt.tokenize(self.tokenizer, self.template, options, self.limits)
        call = self.submit(sender, flags, options, prompt, prompt_ids, session_id)
        if session_id is not None:
            self._sessions[session_id] = call
        if request_id:
            self._requests[request_id] = call

    def _start_apart(self, sender: Sender, *arguments: Any) -> None:
        try:
            self._start(sender, *arguments)
        except Exception as error:
            self._refuse(sender, error)

    def cancel(self, request_id: str) -> bool:
        """Ends a request that nobody waits for; False: none with this id is being answered."""
        call = self._requests.get(request_id)
        if call is None or call.is_done:
            return False
        call.fail(Cancelled("the request was cancelled"))
        self.outbox.flush()
        cancel(call, self.engine)
        return True

    def forget(self, session_id: str) -> None:
        """Ends what is being answered in a conversation and frees its blocks."""
        call = self._sessions.pop(session_id, None)
        if call is not None:
            cancel(call, self.engine)
        self.engine.forget_session(session_id)

    def read(
        self, request: Any, parameters: dict[str, Any], prompt: Prompt
    ) -> tuple[Flags, GenerateOptions]:
        """A request's flags and options, from its tensors and parameters."""
        flags = {name: _flag(request, parameters, name) for name in _FLAGS}
        options = read_options(
            tensors.string(request, "sampling_parameters"),
            {k: v for k, v in parameters.items() if k not in _FLAGS},
            tensors.strings(request, "stop"),
            self.settings,
            default_max_tokens=DEFAULT_MAX_TOKENS if prompt.messages is None else None,
            eos_token_ids=self.tokenizer.eos_token_ids,
            vocab_size=self.limits.vocab_size,
        )
        return flags, options

    def submit(
        self,
        sender: Sender,
        flags: Flags,
        options: GenerateOptions,
        prompt: Prompt,
        prompt_ids: list[int],
        session_id: str | None = None,
    ) -> Call:
        """Starts the call of a request, its grammar compiled on a thread of its own."""
        self._check_adapter(options.adapter_id)
        options = _fitted(options, prompt.name, len(prompt_ids), self.limits, flags)
        call = self._call(sender, flags, options, prompt, prompt_ids)
        ids, encoder_ids = tuple(prompt_ids), tuple[int, ...]()
        if self.limits.decoder_start_token_id is not None:
            # An encoder-decoder reads the prompt and begins the answer afresh.
            ids, encoder_ids = (self.limits.decoder_start_token_id,), ids
        submission = Submission(
            call, ids, options.sampling, encoder_ids, options.adapter_id, session_id
        )
        constraint = None if options.grammar is None else read_constraint(*options.grammar)
        if constraint is None:
            submission.start(self.engine, self.outbox)
        else:
            self._compiling.submit(self._compile, submission, constraint)
        return call

    def closed(self, call: Call) -> None:
        """A call has had its last response."""
        self.metrics.closed(call)

    def _refuse(self, sender: Sender, error: BaseException) -> None:
        """Answers a request that was not started."""
        self.metrics.refused(error)
        sender.fail(error)

    def _call(
        self,
        sender: Sender,
        flags: Flags,
        options: GenerateOptions,
        prompt: Prompt,
        prompt_ids: list[int],
    ) -> Call:
        stream = bool(flags["stream"])
        if stream and options.best_of > 1:
            raise ValidationError(f"n or best_of is {options.best_of}; a stream has one answer")
        prefix = ""
        if flags["exclude_input_in_output"] is False:
            if stream:
                raise ValidationError("exclude_input_in_output is false; a stream has no input")
            prefix = prompt.text or self.tokenizer.decode(prompt_ids)
        returned = Returned(
            **{f.name: bool(flags[f"return_{f.name}"]) for f in dataclasses.fields(Returned)}
        )
        texts: list[str] = []
        if returned.prompt_logprobs:
            texts = prompt.token_texts(self.tokenizer, self.template, options, prompt_ids)
            if self.limits.decoder_start_token_id is not None:
                texts = [""]  # the decoder's start is all of its prompt that has tokens here
        call = Call(
            str(next(self._ids)), sender, stream=stream, num_returned=options.n,
            returned=returned, num_input_tokens=len(prompt_ids), prefix=prefix,
            prompt_texts=texts, on_change=self.outbox.changed,
        )  # fmt: skip
        before = prompt_ids if self.limits.decoder_start_token_id is None else []
        for _ in range(options.best_of):
            detokenizer = Detokenizer(self.tokenizer, before, options.skip_special_tokens)
            stops = StopStrings(options.stop, options.include_stop, options.sampling.min_new_tokens)
            answer = AnswerText(detokenizer, stops, self.tokenizer.cleans_up)
            call.choices.append(Choice(call, answer))
        return call

    def _check_adapter(self, adapter_id: str | None) -> None:
        if self.adapters is not None:
            self.adapters.check(adapter_id)
        elif adapter_id is not None:
            raise ValidationError(f"adapter_id is {adapter_id!r}; no adapters are loaded")

    def _compile(self, submission: Submission, constraint: tuple[str, str]) -> None:
        """On the compiling thread: the call is answered if its grammar is wrong."""
        try:
            grammar = self.grammars.compile(*constraint)
            submission.start(self.engine, self.outbox, grammar)
        except Exception as error:
            submission.call.fail(error)
            self.outbox.flush()

    def _tick(self) -> None:
        self.metrics.update(self.engine.stats())


def _flag(request: Any, parameters: dict[str, Any], name: str) -> bool | None:
    """An input tensor, else a request parameter; None if neither is there."""
    found = tensors.boolean(request, name)
    if found is None and parameters.get(name) is not None:
        return tensors.as_bool(name, parameters[name])
    return found


def _fitted(
    options: GenerateOptions, name: str, num_prompt_tokens: int, limits: Limits, flags: Flags
) -> GenerateOptions:
    """Options with the number of new tokens that fits, and the log-probabilities that are needed.

    Raises:
        ValidationError: the prompt and ``max_tokens`` exceed ``max_total_tokens``.
    """
    room = limits.max_total_tokens - num_prompt_tokens
    asked = options.max_tokens
    if asked is not None and asked > room:
        raise ValidationError(
            f"{name} has {num_prompt_tokens} tokens and max_tokens is {asked}: together they "
            f"exceed max_total_tokens, {limits.max_total_tokens}"
        )
    needs_logprobs = (
        flags["return_logprobs"] or flags["return_cumulative_logprob"] or options.best_of > 1
    )
    sampling = dataclasses.replace(
        options.sampling,
        max_new_tokens=room if asked is None else asked,
        logprobs=options.sampling.logprobs or bool(needs_logprobs),
        prompt_logprobs=options.sampling.prompt_logprobs or bool(flags["return_prompt_logprobs"]),
    )
    return dataclasses.replace(options, sampling=sampling)
