"""What every encoder model has in common: requests to engine items, results to deferred responses.

``execute`` enqueues and returns; a request is answered through its response sender when the last
of its texts is done, so that texts of many requests share a pack. A task (embed, rerank ...) says
how its requests are read and how its answers look.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np

from atoll.cgroup import num_cores
from atoll.config import Settings
from atoll.encoders.encoder import Encoder
from atoll.encoders.engine import EncoderEngine, Forward
from atoll.encoders.packer import Item
from atoll.errors import AtollError, EmptyInputError, NotReady, Overloaded, ValidationError
from atoll.models.load_options import prepare_process
from atoll.serving.deadlines import Deadlines
from atoll.serving.model_ops import ModelOps
from atoll.serving.requests.encoder_request import Reply, Work
from atoll.serving.requests.limits import TIMEOUT, time_limit
from atoll.serving.robust_mutexes import end_without_marks
from atoll.serving.triton import latency_breakdown, tensors
from atoll.serving.triton.auto_complete import complete
from atoll.serving.triton.instance import (
    checkpoint_folder,
    end_without_teardown,
    in_temporary_thread,
    instance_settings,
)
from atoll.serving.triton.metrics import COUNTS, Metrics
from atoll.serving.triton.response_sender import ResponseSender, TritonResponseSender
from atoll.serving.triton.shutdown import Shutdown
from atoll.text.text_encoder import Encoded, TextEncoder
from atoll.text.tokenizer import Tokenizer

# Requests with so few characters are tokenized at once: a hop to another thread costs more.
_INLINE_CHARACTERS = 512
# Requests with so many have a thread of their own: what cannot be cut before it is tokenized takes
# seconds, in which those of ordinary size would wait.
_LONG_CHARACTERS = 200_000
_MAX_ROWS = 256


class EncoderModel:
    """Base of the classes that ``model.py`` exports as ``TritonPythonModel``."""

    task: ClassVar[str]
    # Request parameters of the task, besides truncate and truncation_direction.
    parameters: ClassVar[frozenset[str]]
    is_batched: ClassVar[bool]

    @classmethod
    def auto_complete_config(cls, config: Any) -> Any:
        """Called by Triton before ``initialize``, in a process of its own."""
        return complete(config, cls.task)

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the model and starts the engine; an exception here is shown by the server."""
        end_without_teardown()
        end_without_marks()
        settings = instance_settings(args, self.task)
        self.settings = settings
        self._max_rows = settings.max_client_batch_size or _MAX_ROWS
        folder = checkpoint_folder(args, settings)
        prepare_process(settings)
        encoder, forward = in_temporary_thread(self._load, folder, settings)
        self.loaded = encoder
        tokenizer = Tokenizer.load(folder)
        spec = encoder.spec
        self.truncation_side = tokenizer.truncation_side
        self.text_encoder = TextEncoder(
            tokenizer.core, spec.max_length, spec.has_token_types, encoder.vocab_size
        )
        self.metrics = Metrics(args["model_name"])
        self.engine = EncoderEngine(
            forward,
            encoder.options.device,
            max_batch_tokens=settings.max_batch_tokens,
            max_batch_requests=settings.max_batch_requests,
            on_pack=self._observe,
        )
        workers = settings.tokenization_workers or max(1, num_cores() // 2)
        facts = {
            "task": self.task,
            "model_version": args["model_version"],
            "pooling": spec.pooling,
            "max_input_tokens": spec.max_length,
            "dtype": str(encoder.options.dtype).removeprefix("torch."),
            "device": str(encoder.options.device),
            "prompts": dict(spec.prompts),
            "truncation_side": tokenizer.truncation_side,
            "num_token_ids": encoder.vocab_size,
            "tokenization_workers": workers,
            # Clients cut what is longer into several requests.
            "max_client_batch_size": tensors.max_rows(args["model_config"], self._max_rows),
            **self.facts(),
        }
        self.control = ModelOps(
            settings, tokenizer, facts, is_batched=self.is_batched, cancel=self.cancel
        )
        self._replies: WeakValueDictionary[str, Reply] = WeakValueDictionary()
        self._num_held, self._lock = 0, threading.Lock()
        self._is_closed = False
        self.tokenizers = ThreadPoolExecutor(workers, thread_name_prefix="atoll-tokenizer")
        self.long_texts = ThreadPoolExecutor(1, thread_name_prefix="atoll-long-texts")
        self.deadlines = Deadlines()
        self.deadlines.start()
        self.engine.start()
        self.ending = Shutdown(self._end)

    def load(self, folder: Any, settings: Settings) -> tuple[Encoder, Forward]:
        """The encoder of the task and what runs its packs."""
        raise AssertionError("a task implements load")

    def _load(self, folder: Any, settings: Settings) -> tuple[Encoder, Forward]:
        encoder, forward = self.load(folder, settings)
        encoder.warm_up(settings.max_batch_tokens)
        return encoder, forward

    def facts(self) -> dict[str, Any]:
        """What the task adds to the answer to a control request for ``info``."""
        raise AssertionError("a task implements facts")

    def read(self, request: Any, given: dict[str, Any]) -> Work:
        """The task's tensors; ``given`` holds the request's parameters.

        Raises:
            ValidationError: names the field, the value and the limit.
        """
        raise AssertionError("a task implements read")

    def answer(self, work: Work, rows: list[Any], lengths: list[int]) -> dict[str, Any]:
        """Output tensors from the results of all rows and their token counts."""
        raise AssertionError("a task implements answer")

    def execute(self, requests: list[Any]) -> None:
        """Never blocks and never raises: a request that cannot start is answered at once."""
        for request in requests:
            sender = TritonResponseSender(request, is_decoupled=False)
            try:
                if self.control.answer(request, sender, self._refuse):
                    continue
                work = self._read(request)
                self._admit()
            except Exception as error:
                self._refuse(sender, error)
                continue
            reply = Reply(self, work, sender)
            request_id = request.request_id()
            if request_id:
                self._replies[request_id] = reply
            count = sum(map(_num_characters, work.texts))
            if count <= _INLINE_CHARACTERS:
                self._start(reply)
            else:
                lane = self.tokenizers if count <= _LONG_CHARACTERS else self.long_texts
                lane.submit(self._start, reply)

    def finalize(self) -> None:
        """Ends what is waiting with an error, and the threads."""
        self.ending.finish()
        self.metrics.close()

    def _end(self) -> None:
        self._is_closed = True
        self.control.close()
        self.tokenizers.shutdown(wait=True)
        self.long_texts.shutdown(wait=True)
        self.engine.stop()
        self.deadlines.stop()

    def cancel(self, request_id: str) -> bool:
        """Ends a request that nobody waits for; False: none with this id is being answered."""
        reply = self._replies.get(request_id)
        return reply is not None and reply.abandon()

    def release(self) -> None:
        """A reply is about to be sent: its client may ask again at once."""
        with self._lock:
            self._num_held -= 1

    def count(self, error: BaseException | None, moments: Sequence[float]) -> None:
        """A reply was sent. moments: its arrival, then the end of each of its parts so far."""
        if error is not None:
            self._count_failure(error)
        now = time.monotonic()
        self.metrics.count("atoll_requests_total", "requests answered")
        self.metrics.observe("atoll_request_seconds", "from arrival to answer", now - moments[0])
        if error is None:
            self.metrics.count_parts(latency_breakdown.ENCODER, [*moments, now])

    def truncation(self, given: dict[str, Any]) -> tuple[bool, str]:
        """``truncate`` and ``truncation_direction`` of a request."""
        truncate = tensors.as_bool("truncate", given.get("truncate", self.settings.auto_truncate))
        direction = given.get("truncation_direction", self.truncation_side)
        if str(direction).lower() not in ("left", "right"):
            raise ValidationError(f"truncation_direction is {direction!r}; expected left or right")
        return truncate, str(direction).lower()

    def texts(self, request: Any, name: str, *, may_be_empty: bool = False) -> list[str] | None:
        """The texts of an input; None if it is left out.

        Raises:
            ValidationError: none, too many, an empty one, or one that is not UTF-8.
        """
        texts = tensors.strings(request, name)
        if texts is None:
            return None
        self.check_count(name, len(texts))
        for index, text in enumerate(texts):
            if not (text or may_be_empty):
                raise EmptyInputError(f"{name}[{index}] is empty")
        return texts

    def check_count(self, name: str, count: int) -> None:
        """Raises ValidationError: no rows, or more than ``max_client_batch_size``."""
        if count == 0:
            raise EmptyInputError(f"{name} is empty")
        if count > self._max_rows:
            raise ValidationError(
                f"{name} has {count} texts; max_client_batch_size is {self._max_rows}"
            )

    def _read(self, request: Any) -> Work:
        known = self.parameters | {"truncate", "truncation_direction", TIMEOUT}
        given = tensors.parameters(request, known)
        limit_s = time_limit(request, given, self.settings.max_request_s)
        return dataclasses.replace(self.read(request, given), limit_s=limit_s)

    def _admit(self) -> None:
        with self._lock:
            limit = self.settings.max_concurrent_requests
            if self._num_held >= limit:
                raise Overloaded(
                    f"{self._num_held} requests are held; max_concurrent_requests is {limit}"
                )
            self._num_held += 1

    def _start(self, reply: Reply) -> None:
        """Tokenizes and enqueues; on a tokenizer thread, or in ``execute`` for a little text."""
        work = reply.work
        try:
            if self._is_closed:
                raise NotReady("the model is shutting down")
            if work.ids:
                encoded = [self._checked(work, row) for row in range(len(work.ids))]
            else:
                encoded = self.text_encoder.encode(
                    work.texts, name=work.name, truncate=work.truncate, direction=work.direction
                )
            self.engine.submit(reply.items(encoded))
        except Exception as error:
            reply.fail(error)

    def _checked(self, work: Work, row: int) -> Encoded:
        """Ids that a client tokenized itself."""
        ids, limit = work.ids[row], self.loaded.spec.max_length
        size = self.loaded.vocab_size
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

    def _refuse(self, sender: ResponseSender, error: BaseException) -> None:
        """Answers a request that was not started."""
        if not sender.is_canary:
            self._count_failure(error)
        sender.fail(error)

    def _count_failure(self, error: BaseException) -> None:
        kind = error.error_type if isinstance(error, AtollError) else "inference"
        self.metrics.count(f"atoll_{kind}_failures_total", f"requests failed: {kind}")

    def _observe(
        self, pack: Sequence[Item], num_tokens: int, started: float, seconds: float
    ) -> None:
        if not any(item.is_counted for item in pack):
            return
        self.metrics.count("atoll_texts_total", "texts encoded", len(pack))
        self.metrics.count("atoll_input_tokens_total", "tokens encoded", num_tokens)
        self.metrics.observe("atoll_batch_tokens", "tokens in a pack", num_tokens, COUNTS)
        self.metrics.observe("atoll_inference_seconds", "a pack's forward", seconds)
        waited = started - pack[0].queued
        self.metrics.observe("atoll_queue_seconds", "oldest text of a pack waited", waited)


def _num_characters(text: str | tuple[str, str]) -> int:
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
