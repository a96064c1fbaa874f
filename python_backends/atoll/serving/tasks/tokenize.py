"""A tokenizer as a Triton model: the first step of an ensemble, also usable separately."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from atoll import progress
from atoll.encoders.encoder_config import EncoderConfig
from atoll.errors import EmptyInputError
from atoll.models import families, registry
from atoll.models.detect import decide
from atoll.serving.observer import Observer
from atoll.serving.requests.limits import TIMEOUT, refuse_time_limit
from atoll.serving.requests.priority import PRIORITY, read_priority
from atoll.serving.requests.report import Origin
from atoll.serving.requests.validation import read_truncation, refuse_empty
from atoll.serving.robust_mutexes import end_without_marks
from atoll.serving.tasks.embed import PADDING, EmbedModel, counts
from atoll.serving.triton import tensors
from atoll.serving.triton.instance import checkpoint_folder, instance_settings
from atoll.text.text_encoder import TextEncoder
from atoll.text.tokenizer import Tokenizer
from atoll.weights.modules import transformer_folder

# In an ensemble every step gets all parameters of the request, including the encoder's.
_PARAMETERS = EmbedModel.parameters | {
    "truncate", "truncation_direction", TIMEOUT, PRIORITY,
}  # fmt: skip


class TokensModel:
    """text_input -> input_ids, padded with -1, and num_input_tokens."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the tokenizer and the limits; no weights."""
        end_without_marks()
        progress.introduce(args["model_name"], args["model_version"])
        parameters = tensors.settings_parameters(args["model_config"])
        self.observer = Observer.of(args, parameters, "tokenize")
        self.settings = settings = instance_settings(args, "embed")
        folder = checkpoint_folder(args, settings)
        decide(folder, settings, "embed")
        raw = registry.Checkpoint.open(transformer_folder(folder)).raw
        trunk: Any = registry.build(registry.architecture(raw, families.ENCODERS), raw)
        self.spec = EncoderConfig.read(folder, raw, settings, trunk.max_length)
        tokenizer = Tokenizer.load(folder)
        self.truncation_side = tokenizer.truncation_side
        self.encoder = TextEncoder(tokenizer.core, self.spec.max_length)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; a wrong request gets an error and does not affect others."""
        responses = []
        for request in requests:
            arrival, origin, found = time.monotonic(), Origin(), None
            try:
                parameters = tensors.parsed_parameters(request)
                origin = Origin.read(parameters, request.request_id())
                responses.append(self._answer(request, parameters))
            except Exception as error:
                found = error
                responses.append(tensors.failure(error))
            self.observer.ended(origin, arrival, found)
        return responses

    def _answer(self, request: Any, parameters: Mapping[str, Any]) -> Any:
        given = tensors.own_parameters(parameters, _PARAMETERS)
        refuse_time_limit(request, given)
        read_priority(given)  # which only a queue would use
        truncate, direction = read_truncation(
            given, self.settings.auto_truncate, self.truncation_side
        )
        texts = tensors.strings(request, "text_input")
        if not texts:
            raise EmptyInputError(f"text_input is {'missing' if texts is None else 'empty'}")
        refuse_empty("text_input", texts)
        prompt = self.spec.prompt(self.settings, given.get("prompt_name"))
        encoded = self.encoder.encode(
            [prompt + text for text in texts],
            name="text_input",
            truncate=truncate,
            direction=direction,
        )
        lengths = [len(e.ids) for e in encoded]
        ids = np.full((len(encoded), max(lengths)), PADDING, dtype=np.int32)
        for row, item in enumerate(encoded):
            ids[row, : len(item.ids)] = item.ids
        return tensors.response({"input_ids": ids, **counts(lengths)})
