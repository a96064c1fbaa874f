"""What all encoder models have in common: requests become engine items, rows become answers.

Texts of many requests share a batch, and a request is answered when its last text is done. Each
task (embed, rerank ...) defines how its requests are read and how its answers look.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from atoll import progress
from atoll.cgroup import num_cores
from atoll.config import Settings
from atoll.encoders.encoder import Encoder
from atoll.encoders.engine import EncoderEngine, Forward
from atoll.encoders.routed import RoutedEncoder
from atoll.errors import EmptyInputError, ValidationError
from atoll.models.load_options import prepare_process
from atoll.serving import model_ops
from atoll.serving.requests.encoder_request import EncoderRequest, Work
from atoll.serving.requests.limits import TIMEOUT, time_limit
from atoll.serving.requests.priority import PRIORITY, read_priority
from atoll.serving.requests.validation import read_truncation, refuse_empty
from atoll.serving.tasks.checkpoint_model import CheckpointModel
from atoll.serving.tasks.routed_encoders import RoutedEncoders
from atoll.serving.tasks.served_model import Effort
from atoll.serving.triton import tensors
from atoll.serving.triton.encoder_metrics import EncoderMetrics
from atoll.serving.triton.instance import in_temporary_thread
from atoll.serving.triton.response_sender import ResponseSender
from atoll.text.text_encoder import Encoded

# Short requests are tokenized inline: switching to another thread would take longer.
_INLINE_CHARACTERS = 512
# Longer texts may take seconds to tokenize.
_LONG_CHARACTERS = 200_000
_MAX_ROWS = 256


class EncoderModel(CheckpointModel[EncoderRequest]):
    """Base of all encoder tasks."""

    # Request parameters of the task, besides truncate and truncation_direction.
    parameters: ClassVar[frozenset[str]]
    # Whether the encoder is told where each token is in its text.
    needs_places: ClassVar[bool] = False
    is_decoupled = False
    cancelled = "the client has left"

    def initialize(self, args: dict[str, str]) -> None:
        """See ``ServedModel``."""
        folder = self.open_checkpoint(args)
        settings = self.settings
        self._max_rows = settings.max_client_batch_size or _MAX_ROWS
        self._outputs = tensors.output_names(args["model_config"])
        prepare_process(settings)
        encoder = in_temporary_thread(self._load, folder, settings)
        self.loaded, spec = encoder, encoder.spec
        forward: Forward = encoder
        if self.routed.routes is not None:
            forward = RoutedEncoder(self.routed.encoders, encoder.options.device)
        metrics = EncoderMetrics(args["model_name"])
        self.engine = EncoderEngine(
            forward,
            encoder.options.device,
            max_batch_tokens=settings.max_batch_tokens,
            max_batch_requests=settings.max_batch_requests,
            priority_aging_s=settings.priority_aging_s,
            on_pack=metrics.computed,
        )
        workers = settings.tokenization_workers or max(1, num_cores() // 2)
        facts = {
            "pooling": self.routed.pooling,
            "max_input_tokens": spec.max_length,
            "dtype": str(encoder.options.dtype).removeprefix("torch."),
            "device": str(encoder.options.device),
            "prompts": {**self.routed.unprompted, **spec.prompts},
            "input_types": list(self.routed.unprompted),
            "truncation_side": self.tokenizer.truncation_side,
            "num_token_ids": encoder.vocab_size,
            "tokenization_workers": workers,
            # Clients split larger batches into several requests.
            "max_client_batch_size": tensors.max_rows(args["model_config"], self._max_rows),
            **self.facts(),
        }
        self.serve(args, self.engine, metrics, facts, num_preparing=workers)

    @abstractmethod
    def load(self, folder: Path, settings: Settings) -> Encoder:
        """The encoder of the task."""

    def _load(self, folder: Path, settings: Settings) -> Encoder:
        with progress.phase("weights"):
            self.routed = RoutedEncoders.load(
                folder, self.tokenizer, partial(self.load, settings=settings)
            )
        with progress.phase("warm-up"):
            for encoder in self.routed.encoders.values():
                encoder.warm_up(settings.max_batch_tokens)
        return self.routed.main

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """The task's own facts for the control request ``info``."""

    @abstractmethod
    def read(self, request: Any, given: dict[str, Any]) -> Work:
        """The task's tensors; ``given`` holds the request's parameters.

        Raises:
            ValidationError: names the field, the value and the limit.
        """

    def absent(self, work: Work) -> Mapping[str, str]:
        """Outputs that the answer will not have, and what each needs."""
        return {}

    @abstractmethod
    def answer(self, work: Work, rows: list[Any], lengths: list[int]) -> dict[str, Any]:
        """Output tensors from the results of all rows and their token counts."""

    def read_request(
        self, request: Any, parameters: Mapping[str, Any], sender: ResponseSender
    ) -> EncoderRequest:
        """See ``ServedModel``."""
        known = self.parameters | {"truncate", "truncation_direction", TIMEOUT, PRIORITY}
        given = tensors.own_parameters(parameters, known)
        limit_s = time_limit(request, given, self.settings.max_request_s)
        priority = read_priority(given, is_canary=sender.is_canary)
        work = self.read(request, given)
        asked = set(request.requested_output_names())
        # A request that names none asks for all that there are.
        if asked != self._outputs:
            for name, need in {**self.absent(work), model_ops.PARAMETER: "a question"}.items():
                if name in asked:
                    raise ValidationError(f"output {name} is asked for, which needs {need}")
        return EncoderRequest(work, sender, self.streamer, limit_s, priority)

    def effort(self, request: EncoderRequest) -> Effort:
        """See ``ServedModel``."""
        count = sum(map(_num_characters, request.work.texts))
        if count <= _INLINE_CHARACTERS:
            return Effort.LITTLE
        return Effort.ORDINARY if count <= _LONG_CHARACTERS else Effort.MUCH

    def prepare(self, request: EncoderRequest) -> None:
        """See ``ServedModel``."""
        self.engine.submit(request.items(self.rows(request.work)))

    def rows(self, work: Work) -> list[Encoded]:
        """A request's texts, pairs or token ids as the engine takes them.

        Raises:
            ValidationError: one cannot be used; names it and the limit.
        """
        if work.ids:
            return [self._checked(work, row) for row in range(len(work.ids))]
        return self.encode(work)

    def encode(self, work: Work) -> list[Encoded]:
        """Token ids of the request's texts or pairs.

        Raises:
            ValidationError: one cannot be used; names it and the limit.
        """
        return self.routed.text_encoders[work.route].encode(
            work.texts,
            name=work.name,
            truncate=work.truncate,
            direction=work.direction,
            add_special_tokens=self.routed.encoders[work.route].adds_special_tokens,
            with_places=self.needs_places,
        )

    def respond(self, request: EncoderRequest, even_if_empty: bool) -> list[dict[str, Any]]:
        """See ``ServedModel``."""
        if not request.is_complete:
            return []
        return [self.answer(request.work, request.rows, request.lengths)]

    def truncation(self, given: dict[str, Any]) -> tuple[bool, str]:
        """``truncate`` and ``truncation_direction`` of a request."""
        return read_truncation(given, self.settings.auto_truncate, self.tokenizer.truncation_side)

    def texts(self, request: Any, name: str, *, may_be_empty: bool = False) -> list[str] | None:
        """The texts of an input; None if it is left out.

        Raises:
            ValidationError: none, too many, an empty one, or one that is not UTF-8.
        """
        texts = tensors.strings(request, name)
        if texts is None:
            return None
        self.check_count(name, len(texts))
        if not may_be_empty:
            refuse_empty(name, texts)
        return texts

    def check_count(self, name: str, count: int, what: str = "texts") -> None:
        """Raises ValidationError: no rows, or more than ``max_client_batch_size``."""
        if count == 0:
            raise EmptyInputError(f"{name} is empty")
        if count > self._max_rows:
            raise ValidationError(
                f"{name} has {count} {what}; max_client_batch_size is {self._max_rows}"
            )

    def _checked(self, work: Work, row: int) -> Encoded:
        """A row of token ids from the client, checked and truncated."""
        encoder = self.routed.encoders[work.route]
        ids, limit, size = work.ids[row], encoder.spec.max_length, encoder.vocab_size
        wrong = next((at for at, token in enumerate(ids) if not 0 <= token < size), None)
        if wrong is not None:
            raise ValidationError(
                f"{work.name}[{row}] has id {ids[wrong]} at index {wrong}; "
                f"the vocabulary has {size}"
            )
        if len(ids) > limit:
            if not work.truncate:
                raise ValidationError(
                    f"{work.name}[{row}] has {len(ids)} tokens; the model accepts {limit}"
                )
            ids = ids[-limit:] if work.direction == "left" else ids[:limit]
        return Encoded(np.array(ids, np.int32), None)


def _num_characters(text: str | tuple[str, str]) -> int:
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
