"""Text generation as a decoupled Triton model: tensors to engine requests, answers to responses.

``execute`` checks, tokenizes, enqueues and returns; tokens leave through the outbox. Every request
gets exactly one response with FINAL, whatever happens to it.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from functools import lru_cache
from typing import Any

from atoll.config import Settings
from atoll.engine.loader import Limits, load_engine
from atoll.engine.request import Request
from atoll.errors import ValidationError
from atoll.serving import tensors
from atoll.serving.answers import Call, Choice, Returned
from atoll.serving.control import Control
from atoll.serving.generate_metrics import GenerateMetrics
from atoll.serving.outbox import Outbox
from atoll.serving.prompts import Prompt
from atoll.serving.sampling import ALIASES, DEFAULT_MAX_TOKENS, NAMES, GenerateOptions, read_options
from atoll.text.chat import ChatTemplate
from atoll.text.detokenizer import Detokenizer, StopStrings
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve

logger = logging.getLogger(__name__)

# Boolean inputs that may also come as request parameters.
_RETURN_FLAGS = tuple(f"return_{f.name}" for f in dataclasses.fields(Returned))
_FLAGS = ("stream", "exclude_input_in_output", *_RETURN_FLAGS)
_PARAMETERS = frozenset({*NAMES, *ALIASES, *_FLAGS})


class GenerateModel:
    """What ``model.py`` exports as ``TritonPythonModel``."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the model and starts the engine; an exception here is shown by the server."""
        self.settings = Settings.read(tensors.settings_parameters(args["model_config"]))
        folder = resolve(
            self.settings.model_id, self.settings.revision, self.settings.huggingface_hub_cache
        )
        self.tokenizer = Tokenizer.load(folder)
        self.template = ChatTemplate.load(folder, self.tokenizer)
        self._decode = lru_cache(maxsize=65536)(self._decode_token)
        self.metrics = GenerateMetrics(args["model_name"])
        self.outbox = Outbox(
            self._decode, self._is_special, self._cancel, self.metrics.closed, self._tick
        )
        loaded = load_engine(self.settings, folder, on_step=self.outbox.flush)
        self.engine, self.limits, self.facts = loaded.engine, loaded.limits, loaded.facts
        self._special_ids = {
            token_id
            for token_id, token in self.tokenizer.core.get_added_tokens_decoder().items()
            if token.special
        }
        self._ids = itertools.count()
        self.control = self._control()
        self.engine.start()
        self.outbox.start()

    def execute(self, requests: list[Any]) -> None:
        """Never blocks and never raises: a request that cannot start is answered at once."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                answer = self.control.answer(request)
                if answer is not None:
                    sender.send(answer, tensors.FINAL)
                    continue
                self.start(request, sender)
            except Exception as error:
                self.metrics.refused(error)
                sender.send(tensors.failure(error), tensors.FINAL)

    def finalize(self) -> None:
        """Ends what is running with an error, and the threads."""
        self.engine.stop()
        self.outbox.stop()

    def start(self, request: Any, sender: Any) -> None:
        """Reads a request and hands it to the engine.

        Raises:
            ValidationError, Overloaded, NotReady: nothing was enqueued.
        """
        parameters = tensors.parameters(request, _PARAMETERS)
        flags = {name: _flag(request, parameters, name) for name in _FLAGS}
        prompt = Prompt.read(request)
        options = read_options(
            tensors.string(request, "sampling_parameters"),
            {k: v for k, v in parameters.items() if k not in _FLAGS},
            tensors.strings(request, "stop"),
            self.settings,
            default_max_tokens=DEFAULT_MAX_TOKENS if prompt.messages is None else None,
            eos_token_ids=self.tokenizer.eos_token_ids,
            vocab_size=self.limits.vocab_size,
        )
        prompt_ids = prompt.tokenize(self.tokenizer, self.template, options, self.limits)
        options = _fitted(options, prompt.name, len(prompt_ids), self.limits, flags)
        call = self._call(request, sender, flags, options, prompt, prompt_ids)
        self._submit(call, options, prompt_ids)

    def _control(self) -> Control:
        facts = {"task": "generate", **self.facts, **dataclasses.asdict(self.limits)}
        return Control(self.settings, self.tokenizer, facts, chat=self.template, is_batched=False)

    def _call(
        self,
        request: Any,
        sender: Any,
        flags: dict[str, bool | None],
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
        call = Call(
            f"{next(self._ids)}", sender, stream=stream, num_returned=options.n,
            returned=returned, num_input_tokens=len(prompt_ids), prefix=prefix,
            on_change=self.outbox.changed,
        )  # fmt: skip
        before = prompt_ids if self.limits.decoder_start_token_id is None else []
        for _ in range(options.best_of):
            detokenizer = Detokenizer(self.tokenizer, before, options.skip_special_tokens)
            stops = StopStrings(options.stop, options.include_stop)
            call.choices.append(Choice(call, detokenizer, stops))
        return call

    def _submit(self, call: Call, options: GenerateOptions, prompt_ids: list[int]) -> None:
        start = self.limits.decoder_start_token_id
        ids, encoder_ids = tuple(prompt_ids), tuple[int, ...]()
        if start is not None:  # an encoder-decoder reads the prompt and begins the answer afresh
            ids, encoder_ids = (start,), ids

        def submit(index: int) -> None:
            sampling = dataclasses.replace(
                options.sampling, seed=(options.sampling.seed + index) % 2**64
            )
            self.engine.submit(
                Request(
                    f"{call.request_id}.{index}",
                    ids,
                    sampling,
                    call.choices[index],
                    adapter_id=options.adapter_id,
                    encoder_ids=encoder_ids,
                )  # fmt: skip
            )

        def submit_rest() -> None:
            try:
                for index in range(1, len(call.choices)):
                    submit(index)
            except Exception as error:
                call.fail(error)
                self._cancel(call)

        if len(call.choices) > 1:
            call.start_rest = submit_rest
        self.outbox.open(call)
        try:
            submit(0)
        except Exception:
            self.outbox.forget(call)
            raise

    def _cancel(self, call: Call) -> None:
        for index in range(len(call.choices)):
            self.engine.cancel(f"{call.request_id}.{index}")

    def _tick(self) -> None:
        self.metrics.update(self.engine.stats())

    def _decode_token(self, token_id: int) -> str:
        return self.tokenizer.decode([token_id], skip_special_tokens=False)

    def _is_special(self, token_id: int) -> bool:
        return token_id in self._special_ids


def _flag(request: Any, parameters: dict[str, Any], name: str) -> bool | None:
    """An input tensor, else a request parameter; None if neither is there."""
    found = tensors.boolean(request, name)
    if found is None and parameters.get(name) is not None:
        return tensors.as_bool(name, parameters[name])
    return found


def _fitted(
    options: GenerateOptions,
    name: str,
    num_prompt_tokens: int,
    limits: Limits,
    flags: dict[str, bool | None],
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
