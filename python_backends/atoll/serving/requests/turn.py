"""Conversations and their turns, as the requests of a ``SessionModel``."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atoll.serving.answer_stream import Answers
from atoll.serving.requests.report import Report
from atoll.serving.requests.served_request import Notified, ServedRequest
from atoll.serving.requests.transcript import Transcript
from atoll.serving.triton.response_sender import ResponseSender
from atoll.serving.triton.tensors import Array

END = 2  # TRITONSERVER_REQUEST_FLAG_SEQUENCE_END
# Always requested of the generator: the last response has a reason, so that FINAL is sent with it.
REASON = "return_finish_reason"
_REASON_OUTPUTS = ("finish_reason", "stop_reason")


def _new_id() -> str:
    return uuid.uuid4().hex


@dataclass(eq=False)
class Conversation:
    """What was said, and the turns that are not answered yet, in order; the first is in progress.

    session_id: names the conversation's KV blocks in the generator. since: when the last turn
    arrived, monotonic seconds. is_over: it ends with the last of its turns.
    """

    key: str
    transcript: Transcript = field(default_factory=Transcript)
    turns: deque[Turn] = field(default_factory=deque)
    session_id: str = field(default_factory=_new_id)
    since: float = field(default_factory=time.monotonic)
    is_over: bool = False

    def renew(self) -> str:
        """Gives up the KV blocks; returns the id that they had."""
        given_up, self.session_id = self.session_id, _new_id()
        return given_up


class Turn(ServedRequest):
    """One request of a conversation, which a generator answers.

    asked: the transcript with this turn. is_refused: the generator itself has reported the error,
    and keeps nothing of the turn.
    """

    is_stream = True

    def __init__(
        self, request: Any, parameters: Mapping[str, Any], conversation: Conversation,
        sender: ResponseSender, streamer: Notified,
    ) -> None:  # fmt: skip
        super().__init__(sender, streamer, num_answers=1, limit_s=None)
        self.request, self.parameters, self.conversation = request, parameters, conversation
        self.is_end = bool(request.flags() & END)
        self.asked: Transcript | None = None
        self.wants_reason = False
        self.answers: Answers | None = None
        self.is_scheduled = self.is_submitted = self.is_refused = False
        self._delivered: deque[tuple[dict[str, Array], bool]] = deque()
        self._gained: list[dict[str, Array]] = []
        self._answer = ""
        self._is_complete = False

    @property
    def is_complete(self) -> bool:
        """True once the generator's last response was received."""
        return self._is_complete

    def on_outputs(self, outputs: dict[str, Array], is_last: bool) -> None:
        """A response of the generator."""
        self._delivered.append((outputs, is_last))
        self._call_attention()

    def refuse(self, error: Exception) -> None:
        """The generator has answered with an error."""
        self.is_refused = self.error is None
        self.fail(error)

    def advance(self) -> None:
        """See ``ServedRequest``."""
        while self._delivered:
            outputs, self._is_complete = self._delivered.popleft()
            self._answer += outputs["text_output"][0].decode()
            if not self.wants_reason:
                outputs = {k: v for k, v in outputs.items() if k not in _REASON_OUTPUTS}
            self._gained.append(outputs)
            self.num_tokens_unpolled += 1

    def take(self) -> list[dict[str, Array]]:
        """The responses since the last call."""
        gained, self._gained = self._gained, []
        return gained

    def transcript(self) -> Transcript:
        """The conversation after this turn."""
        if self.asked is None:
            return self.conversation.transcript
        return self.asked.answered(self._answer)

    def report(self) -> Report:
        """See ``ServedRequest``; the generator reports its own part of it."""
        return Report("chat")

    def cancel(self) -> None:
        """See ``ServedRequest``."""
        if self.answers is not None:
            self.answers.leave()
