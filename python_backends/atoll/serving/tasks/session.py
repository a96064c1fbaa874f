"""Conversations by Triton's sequence batching, in front of a generator.

A sequence is a conversation: each request carries one more turn (``text_input`` goes on with the
text, ``messages`` are added to the chat), and this model sends the whole of it to the generator,
which keeps the conversation's key-value blocks between turns and computes only what is new. The
text is kept here, so a generator that has given the blocks up, or was loaded again, computes them
from it. No weights are loaded: an entry of this kind costs a small process. Answers do not come by
way of Triton: see ``answer_stream``. Where the generator's process ends by itself, the launcher
ends this one too: Triton would never say so of a request that was being handed on.

A turn that fails, or whose client leaves, changes nothing: the conversation is as it was before.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from atoll.errors import Cancelled, ConfigError, NotReady, ValidationError
from atoll.serving import model_ops
from atoll.serving.answer_stream import Answers, Failure
from atoll.serving.requests.limits import TIMEOUT, time_limit
from atoll.serving.requests.transcript import Transcript
from atoll.serving.robust_mutexes import end_without_marks
from atoll.serving.triton import tensors
from atoll.serving.triton.model_requests import Refused, hand_on
from atoll.serving.triton.response_sender import TritonResponseSender
from atoll.serving.triton.shutdown import Shutdown

logger = logging.getLogger(__name__)

_START, _END = 1, 2  # TRITONSERVER_REQUEST_FLAG_SEQUENCE_*
# Turns that are generated at once; each waits on a thread. More wait their turn.
_MAX_TURNS_AT_ONCE = 128
# A conversation must not be gone here while Triton still takes its turns.
_GRACE_S = 60.0
# Inputs that make up the turn; all others are the generator's options and passed on.
_TURN = ("text_input", "messages", "tools")
# The generator's parameter that names a conversation.
_SESSION = "session_id"
# By it the last response is known, so that FINAL goes with it: some clients miss an empty one.
_REASON = "return_finish_reason"
_REASON_OUTPUTS = ("finish_reason", "stop_reason")
# Asking whether a client has gone costs 28-65 us.
_POLL_RESPONSES = 8


@dataclass
class _Conversation:
    """``session_id`` names its blocks to the generator, anew whenever a conversation begins.

    since: when its last turn came, monotonic seconds.
    """

    session_id: str
    transcript: Transcript = field(default_factory=Transcript)
    waiting: deque[tuple[Any, TritonResponseSender, float]] = field(default_factory=deque)
    is_working: bool = False
    since: float = 0.0


class SessionModel:
    """What ``model.py`` exports. Entry parameter: ``generator``, the entry it stands before."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the generator's name; it need not be loaded yet."""
        end_without_marks()
        parameters = tensors.settings_parameters(args["model_config"])
        if "generator" not in parameters:
            raise ConfigError("parameter 'generator' is missing in config.pbtxt")
        self.generator = parameters["generator"]
        # Triton forgets an idle sequence by itself and does not say so.
        self._idle_s = float(parameters.get("session_timeout_s", "300")) + _GRACE_S
        self._conversations: dict[str, _Conversation] = {}
        self._lock, self._is_closed = threading.Lock(), False
        self._threads = ThreadPoolExecutor(_MAX_TURNS_AT_ONCE, "atoll-session", end_without_marks)
        self.ending = Shutdown(self._finish_turns)

    def execute(self, requests: list[Any]) -> None:
        """Never blocks: turns of one conversation are worked on in order, others beside them."""
        self._expire()
        for request in requests:
            sender, key = TritonResponseSender(request), str(request.correlation_id())
            with self._lock:
                if request.flags() & _START:
                    self._begin(key)
                conversation = self._conversations.get(key)
                if conversation is not None:
                    self._add(key, conversation, request, sender)
                    continue
            unknown = ValidationError(f"conversation {key} is not known; begin it with START")
            sender.fail(unknown)

    def finalize(self) -> None:
        """Waits for the turns that are being answered; refuses those that wait for them."""
        self.ending.finish()

    def _finish_turns(self) -> None:
        self._is_closed = True
        self._threads.shutdown()

    def _begin(self, key: str) -> None:
        """Under the lock: the conversation that had this id before is over."""
        earlier = self._conversations.pop(key, None)
        self._conversations[key] = _Conversation(f"{self.generator}-{uuid.uuid4().hex}")
        if earlier is not None:
            self._threads.submit(self._forget, earlier)

    def _add(
        self, key: str, conversation: _Conversation, request: Any, sender: TritonResponseSender
    ) -> None:
        """Under the lock."""
        conversation.since = time.monotonic()
        conversation.waiting.append((request, sender, conversation.since))
        if not conversation.is_working:
            conversation.is_working = True
            self._threads.submit(self._work, key, conversation)

    def _expire(self) -> None:
        limit = time.monotonic() - self._idle_s
        with self._lock:
            for key, conversation in list(self._conversations.items()):
                if conversation.since < limit and not conversation.is_working:
                    del self._conversations[key]

    def _work(self, key: str, conversation: _Conversation) -> None:
        """Answers a conversation's turns until none waits."""
        while True:
            with self._lock:
                if not conversation.waiting:
                    conversation.is_working = False
                    return
                request, sender, arrival = conversation.waiting.popleft()
            try:
                if self._is_closed:
                    raise NotReady("the model is shutting down")
                self._answer(request, sender, arrival, conversation)
            except Failure as failure:
                sender.refuse(tensors.named_error(failure.code, failure.text))
            except Refused as refused:
                sender.refuse(refused.error)
            except Exception as error:
                sender.fail(error)
            if request.flags() & _END:
                self._end(key, conversation)

    def _end(self, key: str, conversation: _Conversation) -> None:
        with self._lock:
            if self._conversations.get(key) is conversation:
                del self._conversations[key]
        self._forget(conversation)

    def _answer(
        self,
        request: Any,
        sender: TritonResponseSender,
        arrival: float,
        conversation: _Conversation,
    ) -> None:
        """One turn: the generator's responses are passed on, the last of them with FINAL.

        Raises:
            Exception: the turn has failed, and the conversation is as it was before.
        """
        turn = {name: tensors.string(request, name) for name in _TURN}
        if request.flags() & _END and not any(turn.values()):
            sender.send({"text_output": _texts("")}, tensors.FINAL)
            return
        asked = conversation.transcript.asked(*turn.values())
        if tensors.boolean(request, "exclude_input_in_output") is False:
            raise ValidationError("exclude_input_in_output is false; a turn has no whole input")
        wants_reason = bool(tensors.boolean(request, _REASON))
        parameters = dict(sender.parameters)
        self._check(parameters)
        _shorten(parameters, time_limit(request, parameters, 0), arrival)
        before, said = conversation.transcript, ""
        responses = self._ask(
            {**{name: _texts(text) for name, text in asked.inputs().items()}, **_options(request)},
            {**_passed_on(parameters), _SESSION: conversation.session_id},
            request.request_id(),
        )
        for index, outputs in enumerate(responses, 1):
            said += outputs["text_output"][0].decode()
            is_last = bool(outputs["finish_reason"][0])
            if is_last:
                # Before the response: a client that has it may send the next turn at once.
                conversation.transcript = asked.answered(said)
            if not wants_reason:
                outputs = {k: v for k, v in outputs.items() if k not in _REASON_OUTPUTS}
            try:
                sender.send(outputs, tensors.FINAL if is_last else 0)
                if index % _POLL_RESPONSES == 0 and not is_last and sender.is_cancelled():
                    raise Cancelled("the client has left")
            except Exception:
                conversation.transcript = before
                self._forget(conversation)
                raise

    def _check(self, parameters: dict[str, Any]) -> None:
        if model_ops.PARAMETER in parameters:
            raise ValidationError(f"control is set; such questions go to {self.generator}")
        for name in (_SESSION, tensors.ANSWERS_TO):
            if name in parameters:
                raise ValidationError(f"{name} is {parameters[name]!r}; a turn sets it by itself")

    def _ask(
        self, inputs: dict[str, tensors.Array], parameters: dict[str, Any], request_id: str = ""
    ) -> Iterator[dict[str, tensors.Array]]:
        """The generator's outputs as they come; it can be told to cancel the request by its id.

        Raises:
            Failure, NotReady: see ``Answers``.
            Refused, Overloaded: see ``hand_on``.
        """
        with closing(Answers()) as answers:
            hand_on(
                self.generator, inputs, {**parameters, tensors.ANSWERS_TO: answers.name}, request_id
            )
            yield from answers

    def _forget(self, conversation: _Conversation) -> None:
        """The generator frees the conversation's blocks and ends what it is answering in it."""
        question = json.dumps({"op": "forget", "session_id": conversation.session_id})
        try:
            for _ in self._ask({}, {"control": question}):
                continue
        except Exception:
            logger.exception("%s: a conversation's blocks stay until they expire", self.generator)


def _shorten(parameters: dict[str, Any], limit_s: float | None, arrival: float) -> None:
    """Leaves the generator what the turns before have left of a turn's time.

    Raises:
        Cancelled: nothing.
    """
    if limit_s is None:
        return
    left_s = limit_s - (time.monotonic() - arrival)
    if left_s <= 0:
        raise Cancelled(f"the request's time is over, {limit_s:g} s")
    parameters[TIMEOUT] = math.ceil(left_s * 1e6)


def _passed_on(parameters: dict[str, Any]) -> dict[str, str | int | bool]:
    """Parameters as a request between models carries them: it has no fractions, nor 64-bit seeds.

    The generator reads numbers in texts, too.
    """
    found: dict[str, str | int | bool] = {}
    for name, value in parameters.items():
        is_whole = isinstance(value, float) and value.is_integer()
        value = int(value) if is_whole else value
        is_small = isinstance(value, int) and -(2**63) <= value < 2**63
        found[name] = value if is_small else str(value)
    return found


def _options(request: Any) -> dict[str, tensors.Array]:
    """The inputs besides the turn, as they came."""
    given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    options = {name: array for name, array in given.items() if name not in _TURN}
    return {**options, _REASON: np.array([True])}


def _texts(text: str) -> tensors.Array:
    return np.array([text.encode()], dtype=np.object_)
