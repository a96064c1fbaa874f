"""Conversations by Triton's sequence batching, in front of a generator.

A sequence is a conversation: each request is one more turn (``text_input`` continues the text,
``messages`` are added to the chat). This model sends the whole conversation to the generator, which
keeps its key-value blocks between turns and computes only what is new. The text is kept here, so
that a generator that has evicted the blocks, or was loaded again, can compute them from it. No
weights are loaded: an entry of this kind costs a small process. The generator's answers do not pass
through Triton: see ``answer_stream``. If the generator's process ends by itself, the launcher ends
this one too, since Triton never reports it for a request that is being sent there.

A turn that fails, or whose client disconnects, leaves the conversation as it was before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from atoll import progress
from atoll.errors import ConfigError, ValidationError
from atoll.serving import model_ops
from atoll.serving.remote_generator import RemoteGenerator
from atoll.serving.requests.limits import time_limit
from atoll.serving.requests.turn import REASON, Conversation, Turn
from atoll.serving.tasks.served_model import Effort, ServedModel
from atoll.serving.triton import tensors
from atoll.serving.triton.request_metrics import RequestMetrics
from atoll.serving.triton.response_sender import ResponseSender

_START = 1  # TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
# A conversation must be kept here at least as long as Triton accepts turns of it.
_GRACE_S = 60.0
# Inputs that make up the turn; all others are the generator's options and passed on.
_TURN = ("text_input", "messages", "tools")
# The generator's parameter that names a conversation.
_SESSION = "session_id"
_NUM_PREPARING = 2


class SessionModel(ServedModel[Turn]):
    """What ``model.py`` exports. Entry parameter: ``generator``, the entry it stands before."""

    is_decoupled = True
    task = "chat"
    cancelled = "the request was cancelled"

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the generator's name; it need not be loaded yet."""
        progress.introduce(args["model_name"], args["model_version"])
        self.open(args)
        parameters = tensors.settings_parameters(args["model_config"])
        if "generator" not in parameters:
            raise ConfigError("parameter 'generator' is missing in config.pbtxt")
        self.generator = RemoteGenerator(parameters["generator"])
        # Triton forgets idle sequences without reporting it.
        self._idle_s = float(parameters.get("session_timeout_s", "300")) + _GRACE_S
        self._conversations: dict[str, Conversation] = {}
        self._lock = threading.Lock()
        metrics = RequestMetrics[Turn](args["model_name"])
        self.begin(self.generator, metrics, num_preparing=_NUM_PREPARING)

    def read_request(
        self, request: Any, parameters: Mapping[str, Any], sender: ResponseSender
    ) -> Turn:
        """Finds the conversation; its turns are checked in order, when they are prepared."""
        key = str(request.correlation_id())
        with self._lock:
            self._expire()
            if request.flags() & _START:
                if (earlier := self._conversations.get(key)) is not None:
                    earlier.is_over = True
                    self.generator.forget(earlier.session_id)
                self._conversations[key] = Conversation(key)
            conversation = self._conversations.get(key)
        if conversation is None:
            raise ValidationError(f"conversation {key} is not known; begin it with START")
        return Turn(request, parameters, conversation, sender, self.streamer)

    def admit(self, request: Turn) -> None:
        """See ``ServedModel``."""
        super().admit(request)
        with self._lock:
            request.conversation.since = request.arrival
            request.conversation.turns.append(request)

    def schedule(self, request: Turn) -> None:
        """See ``ServedModel``; turns of one conversation wait for each other."""
        with self._lock:
            first = next(iter(request.conversation.turns), None)
            if request.is_scheduled or request is not first:
                return
            request.is_scheduled = True
        super().schedule(request)

    def effort(self, request: Turn) -> Effort:
        """See ``ServedModel``: a conversation may be long."""
        return Effort.ORDINARY

    def prepare(self, request: Turn) -> None:
        """See ``ServedModel``."""
        given = {name: tensors.string(request.request, name) for name in _TURN}
        if request.is_end and not any(given.values()):
            request.on_outputs({"text_output": tensors.texts([""])}, is_last=True)
            return
        asked = request.conversation.transcript.asked(*given.values())
        if tensors.boolean(request.request, "exclude_input_in_output") is False:
            raise ValidationError("exclude_input_in_output is false; a turn has no whole input")
        request.wants_reason = bool(tensors.boolean(request.request, REASON))
        parameters = dict(request.parameters)
        self._check(parameters)
        request.limit_s = time_limit(request.request, parameters, 0)
        # The time in which it has waited for the turns before it counts.
        if error := self.overdue(request, time.monotonic() - request.arrival):
            raise error
        texts = {name: tensors.texts([text]) for name, text in asked.inputs().items()}
        request.asked = asked
        self.generator.submit(
            request,
            {**texts, **_options(request.request)},
            {**_passed_on(parameters), _SESSION: request.conversation.session_id},
        )

    def respond(self, request: Turn, even_if_empty: bool) -> list[dict[str, tensors.Array]]:
        """See ``ServedModel``."""
        return request.take()

    def closed(self, request: Turn) -> None:
        """See ``ServedModel``."""
        super().closed(request)
        conversation = request.conversation
        if request.error is None:
            conversation.transcript = request.transcript()
        elif request.is_submitted and not request.is_refused:
            self.generator.forget(conversation.renew())
        with self._lock:
            conversation.turns.remove(request)
            conversation.is_over |= request.is_end
            following = next(iter(conversation.turns), None)
            if following is None and conversation.is_over:
                self.generator.forget(conversation.session_id)
                if self._conversations.get(conversation.key) is conversation:
                    del self._conversations[conversation.key]
        if following is not None:
            self.schedule(following)

    def _expire(self) -> None:
        """Under the lock."""
        limit = time.monotonic() - self._idle_s
        for key, conversation in list(self._conversations.items()):
            if conversation.since < limit and not conversation.turns:
                del self._conversations[key]

    def _check(self, parameters: Mapping[str, Any]) -> None:
        if model_ops.PARAMETER in parameters:
            raise ValidationError(f"control is set; such questions go to {self.generator.name}")
        for name in (_SESSION, tensors.ANSWERS_TO):
            if name in parameters:
                raise ValidationError(f"{name} is {parameters[name]!r}; a turn sets it by itself")


def _passed_on(parameters: Mapping[str, Any]) -> dict[str, str | int | bool]:
    """Parameters for a request between models, which cannot carry fractions or 64-bit seeds.

    Those become text, which the generator also reads as numbers.
    """
    found: dict[str, str | int | bool] = {}
    for name, value in parameters.items():
        is_whole = isinstance(value, float) and value.is_integer()
        value = int(value) if is_whole else value
        is_small = isinstance(value, int) and -(2**63) <= value < 2**63
        found[name] = value if is_small else str(value)
    return found


def _options(request: Any) -> dict[str, tensors.Array]:
    """The inputs besides the turn, unchanged."""
    given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    options = {name: array for name, array in given.items() if name not in _TURN}
    return {**options, REASON: np.array([True])}
