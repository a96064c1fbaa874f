"""Embedding as a Triton model: tensors to engine items, vectors to deferred responses.

``execute`` enqueues and returns; a request is answered through its response sender when the last
of its texts is done, so that texts of many requests share a pack.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from atoll.config import Settings
from atoll.encoders.engine import EncoderEngine
from atoll.encoders.packer import Item
from atoll.encoders.pooling import normalized, pool
from atoll.encoders.spec import EncoderSpec
from atoll.errors import EmptyInputError, GenerationError, Overloaded, ValidationError
from atoll.layers import PackedBatch
from atoll.models.options import load_options
from atoll.models.registry import Checkpoint, load_encoder
from atoll.serving import tensors
from atoll.serving.control import Control
from atoll.serving.metrics import COUNTS, Metrics
from atoll.text.encoding import TextEncoder
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve

_PARAMETERS = frozenset(
    {"normalize", "truncate", "truncation_direction", "prompt_name", "dimensions"}
)


@dataclass(frozen=True)
class EmbedOptions:
    """What a request asks for."""

    normalize: bool
    truncate: bool
    direction: str
    prompt: str
    dimensions: int | None


class EmbedModel:
    """What ``model.py`` exports as ``TritonPythonModel``."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the model and starts the engine; an exception here is shown by the server."""
        self.settings = Settings.read(tensors.settings_parameters(args["model_config"]))
        settings = self.settings
        folder = resolve(settings.model_id, settings.revision, settings.huggingface_hub_cache)
        if settings.num_threads:
            torch.set_num_threads(settings.num_threads)
        checkpoint = Checkpoint.open(folder)
        options = load_options(settings, checkpoint.raw)
        model: Any = load_encoder(checkpoint, options)
        self.model, self.hidden_size = model, int(model.config.hidden_size)
        self.spec = EncoderSpec.read(folder, settings, model.max_length)
        tokenizer = Tokenizer.load(folder)
        self.encoder = TextEncoder(tokenizer.core, self.spec.max_length)
        self.metrics = Metrics(args["model_name"])
        self.engine = EncoderEngine(
            self._forward,
            options.device,
            max_batch_tokens=settings.max_batch_tokens,
            max_batch_requests=settings.max_batch_requests,
            on_pack=self._observe,
        )
        facts = {
            "task": "embed",
            "pooling": self.spec.pooling,
            "max_input_tokens": self.spec.max_length,
            "dimensions": self.hidden_size,
            "dtype": str(options.dtype).removeprefix("torch."),
            "prompts": dict(self.spec.prompts),
        }
        self.control = Control(settings, tokenizer, facts, is_batched=True)
        self._num_held, self._lock = 0, threading.Lock()
        workers = settings.tokenization_workers or max(1, (os.cpu_count() or 2) // 2)
        self.tokenizers = ThreadPoolExecutor(workers, thread_name_prefix="atoll-tokenizer")
        self.engine.start()

    def execute(self, requests: list[Any]) -> None:
        """Never blocks and never raises: a request that cannot start is answered at once."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                answer = self.control.answer(request)
                if answer is not None:
                    sender.send(answer, tensors.FINAL)
                    continue
                options = self._options(request)
                texts = self._texts(request)
                self._admit()
            except Exception as error:
                sender.send(tensors.failure(error), tensors.FINAL)
                continue
            self.tokenizers.submit(self._start, texts, options, _Answer(sender, self._release))

    def finalize(self) -> None:
        """Ends what is waiting with an error, and the threads."""
        self.tokenizers.shutdown(wait=True)
        self.engine.stop()

    def _options(self, request: Any) -> EmbedOptions:
        given = tensors.parameters(request, _PARAMETERS)
        truncate = given.get("truncate", self.settings.auto_truncate)
        direction = str(given.get("truncation_direction", "right")).lower()
        if direction not in ("left", "right"):
            raise ValidationError(
                f"truncation_direction is {given['truncation_direction']!r}; expected left or right"
            )
        dimensions = given.get("dimensions")
        if dimensions is not None:
            dimensions = tensors.as_int("dimensions", dimensions, 1, self.hidden_size)
        return EmbedOptions(
            normalize=tensors.as_bool("normalize", given.get("normalize", True)),
            truncate=tensors.as_bool("truncate", truncate),
            direction=direction,
            prompt=self._prompt(given.get("prompt_name")),
            dimensions=dimensions,
        )

    def _prompt(self, name: Any) -> str:
        name = self.settings.default_prompt_name if name is None else str(name)
        if name is None:
            return self.settings.default_prompt or ""
        if name not in self.spec.prompts:
            raise ValidationError(
                f"prompt_name is {name!r}; the model has {sorted(self.spec.prompts)}"
            )
        return self.spec.prompts[name]

    def _texts(self, request: Any) -> list[str]:
        texts = tensors.strings(request, "text_input")
        if not texts:
            raise EmptyInputError("text_input is empty")
        limit = self.settings.max_client_batch_size
        if len(texts) > limit:
            raise ValidationError(
                f"text_input has {len(texts)} texts; max_client_batch_size is {limit}"
            )
        for index, text in enumerate(texts):
            if not text:
                raise EmptyInputError(f"text_input[{index}] is empty")
        return texts

    def _admit(self) -> None:
        with self._lock:
            if self._num_held >= self.settings.max_concurrent_requests:
                raise Overloaded(
                    f"{self._num_held} requests are held; max_concurrent_requests is "
                    f"{self.settings.max_concurrent_requests}"
                )
            self._num_held += 1

    def _release(self) -> None:
        with self._lock:
            self._num_held -= 1

    def _start(self, texts: list[str], options: EmbedOptions, answer: _Answer) -> None:
        """Tokenizes and enqueues, on a tokenizer thread."""
        try:
            if options.prompt:
                texts = [options.prompt + text for text in texts]
            encoded = self.encoder.encode(
                texts, name="text_input", truncate=options.truncate, direction=options.direction
            )
            answer.expect([len(e.ids) for e in encoded])
            self.engine.submit(
                [
                    Item(e.ids, answer.setter(row), e.type_ids, options)
                    for row, e in enumerate(encoded)
                ]
            )
        except Exception as error:
            answer.fail(error)

    def _forward(self, batch: PackedBatch, items: Sequence[Item]) -> list[object]:
        """One vector, or an error, per item."""
        vectors = pool(self.model(batch), batch.cu_seqlens, self.spec.pooling).cpu()
        finite = torch.isfinite(vectors).all(-1).tolist()
        unit = normalized(vectors)
        return [
            _cut(unit[row] if item.options.normalize else vectors[row], item.options)
            if finite[row]
            else GenerationError("the embedding is not finite (NaN or infinite)")
            for row, item in enumerate(items)
        ]

    def _observe(self, pack: Sequence[Item], num_tokens: int, seconds: float) -> None:
        self.metrics.count("atoll_texts_total", "texts encoded", len(pack))
        self.metrics.count("atoll_input_tokens_total", "tokens encoded", num_tokens)
        self.metrics.observe("atoll_batch_tokens", "tokens in a pack", num_tokens, COUNTS)
        self.metrics.observe("atoll_inference_seconds", "a pack's forward", seconds)
        waited = time.monotonic() - seconds - pack[0].queued
        self.metrics.observe("atoll_queue_seconds", "oldest text of a pack waited", waited)


class _Answer:
    """Collects the rows of one request and sends its response once."""

    def __init__(self, sender: Any, on_close: Callable[[], None]) -> None:
        self._sender, self._on_close = sender, on_close
        self._lengths: list[int] = []
        self._rows: list[Any] = []
        self._num_missing = 0
        self._is_closed = False

    def expect(self, lengths: list[int]) -> None:
        """Tokens of every row that will come."""
        self._lengths, self._num_missing = lengths, len(lengths)
        self._rows = [None] * len(lengths)

    def setter(self, row: int) -> Callable[[Any], None]:
        """What the engine calls with a row's result."""
        return lambda result: self._set(row, result)

    def fail(self, error: BaseException) -> None:
        """Answers with an error, unless the request has been answered."""
        self._close(tensors.failure(error))

    def _set(self, row: int, result: Any) -> None:
        if isinstance(result, BaseException):
            self.fail(result)
            return
        self._rows[row] = result
        self._num_missing -= 1
        if self._num_missing == 0:
            counts = np.array(self._lengths, dtype=np.uint32).reshape(-1, 1)
            self._close(
                tensors.response({"embedding": np.stack(self._rows), "num_input_tokens": counts})
            )

    def _close(self, response: Any) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._on_close()
            self._sender.send(response, tensors.FINAL)


def _cut(vector: torch.Tensor, options: EmbedOptions) -> Any:
    """The first ``dimensions`` values, made a unit vector again if asked (Matryoshka)."""
    if options.dimensions is None:
        return vector.numpy()
    short = vector[: options.dimensions]
    return (normalized(short) if options.normalize else short).numpy()
