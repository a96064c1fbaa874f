"""A generator in another model's process, as the engine of a ``SessionModel``."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from atoll.errors import NotReady
from atoll.serving.answer_stream import Answers
from atoll.serving.requests.turn import Turn
from atoll.serving.robust_mutexes import end_without_marks
from atoll.serving.triton.model_requests import hand_on
from atoll.serving.triton.tensors import ANSWERS_TO, Array

logger = logging.getLogger(__name__)

# Each has a thread that reads the generator's responses; other turns wait.
_MAX_TURNS_AT_ONCE = 128


class RemoteGenerator:
    """Sends turns to a generator and delivers its responses to them."""

    # If the generator ends, the launcher ends this process, too.
    failure: str | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        self._threads = ThreadPoolExecutor(_MAX_TURNS_AT_ONCE, "atoll-session", end_without_marks)

    def start(self) -> None:
        """Nothing: threads are started when they are needed."""

    def stop(self) -> None:
        """Returns when the turns in progress have been answered."""
        self._threads.shutdown()

    def submit(
        self, turn: Turn, inputs: Mapping[str, Array], parameters: Mapping[str, str | int | bool]
    ) -> None:
        """Has a turn answered; errors go to the turn. inputs, parameters: for the generator.

        Raises:
            NotReady: it was stopped.
        """
        try:
            self._threads.submit(self._answer, turn, inputs, parameters)
        except RuntimeError:
            raise NotReady("the model is shutting down") from None

    def forget(self, session_id: str) -> None:
        """Frees a conversation's blocks in the generator and ends its request, if there is one."""
        try:
            self._threads.submit(self._forget, session_id)
        except RuntimeError:  # stopped
            logger.info("%s: a conversation's blocks are kept until they expire", self.name)

    def _answer(
        self, turn: Turn, inputs: Mapping[str, Array], parameters: Mapping[str, str | int | bool]
    ) -> None:
        try:
            with closing(Answers()) as answers:
                turn.answers = answers
                if turn.is_done:
                    return
                turn.is_submitted = True
                request_id = turn.request.request_id()
                for outputs in self._ask(answers, inputs, parameters, request_id):
                    turn.on_outputs(outputs, is_last=bool(outputs["finish_reason"][0]))
        except Exception as error:
            turn.refuse(error)

    def _forget(self, session_id: str) -> None:
        question = json.dumps({"op": "forget", "session_id": session_id})
        try:
            with closing(Answers()) as answers:
                list(self._ask(answers, {}, {"control": question}))
        except Exception:
            logger.exception("%s: a conversation's blocks are kept until they expire", self.name)

    def _ask(
        self, answers: Answers, inputs: Mapping[str, Array],
        parameters: Mapping[str, str | int | bool], request_id: str = "",
    ) -> Iterator[dict[str, Array]]:  # fmt: skip
        hand_on(self.name, inputs, {**parameters, ANSWERS_TO: answers.name}, request_id)
        return iter(answers)
