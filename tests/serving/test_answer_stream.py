"""Answers between models: every end that a stream can have is told to who listens."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from fake_backend import Request

from atoll.errors import Cancelled, NotReady, Overloaded, ValidationError
from atoll.serving import answer_stream
from atoll.serving.answer_stream import Answers, Failure, sender_of
from atoll.serving.triton import tensors
from atoll.serving.triton.response_sender import ResponseSender, TritonResponseSender

PATIENCE_S = 60.0


def outputs(text: str) -> dict[str, tensors.Array]:
    return {"text_output": np.array([text.encode()], dtype=np.object_)}


def ask(answers: Answers, **parameters: bool) -> tuple[Request, ResponseSender]:
    """A request to a generator, and what it answers by."""
    request = Request({}, {tensors.ANSWERS_TO: answers.name, **parameters})
    return request, sender_of(TritonResponseSender(request))


def is_cancelled_soon(sender: ResponseSender) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not sender.is_cancelled() and time.monotonic() < deadline:
        time.sleep(0.01)
    return sender.is_cancelled()


def test_responses_come_in_order_and_none_by_way_of_triton() -> None:
    answers = Answers()
    request, sender = ask(answers)
    assert request.sender.num_finals == 1 and not request.sender.all
    assert not sender.is_cancelled()
    sender.send(outputs("a"))
    sender.send({**outputs("b"), "scores": np.arange(3.0)}, tensors.FINAL)
    assert sender.is_closed and not sender.is_cancelled()
    first, second = answers
    assert first["text_output"][0] == b"a" and second["text_output"][0] == b"b"
    assert second["scores"].tolist() == [0, 1, 2]
    with pytest.raises(RuntimeError, match="after the final one"):
        sender.send(outputs("c"))
    answers.close()


def test_an_error_after_a_response_is_heard() -> None:
    """Triton lost it, and who waited for it waited for ever."""
    answers = Answers()
    _, sender = ask(answers, json_errors=True)
    sender.send(outputs("a"))
    sender.fail(Overloaded("no room"))
    sender.fail(Overloaded("once more changes nothing"))
    responses = iter(answers)
    next(responses)
    with pytest.raises(Failure) as found:
        next(responses)
    assert found.value.code == "UNAVAILABLE"
    assert found.value.text == '{"error": "no room", "error_type": "overloaded"}'
    answers.close()


def test_a_generator_that_ends_is_noticed() -> None:
    answers = Answers()
    _, sender = ask(answers)
    sender.send(outputs("a"))
    responses = iter(answers)
    next(responses)
    del sender  # as its process would
    with pytest.raises(NotReady, match="ended before its answer"):
        next(responses)
    answers.close()


def test_who_listens_no_more_is_noticed() -> None:
    answers = Answers()
    _, sender = ask(answers)
    next_one = threading.Thread(target=lambda: next(iter(answers)))
    next_one.start()
    sender.send(outputs("a"))
    next_one.join()
    answers.close()
    assert is_cancelled_soon(sender)
    with pytest.raises(Cancelled):
        sender.send(outputs("b"))
    assert sender.is_closed
    sender.fail(Cancelled("the client has left"))  # to nobody


def test_who_leaves_with_something_unread_is_noticed_at_once() -> None:
    """The connection is reset then, and says so once."""
    answers = Answers()
    _, sender = ask(answers)
    sender.send(outputs("a"))
    sender.send(outputs("b" * 100_000))
    assert next(iter(answers))["text_output"][0] == b"a"
    answers.close()
    assert sender.is_cancelled()


def test_who_does_not_read_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_stream, "_SEND_S", 1)
    answers = Answers()
    _, sender = ask(answers)
    with pytest.raises(Overloaded, match="not taken within 1 s"):
        sender.send(outputs("a" * 10**7))
    assert sender.is_closed
    with pytest.raises(NotReady):
        list(answers)
    answers.close()


def test_a_process_of_another_user_is_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes is unpickled."""
    answers, own = Answers(), os.getuid()
    _, sender = ask(answers)
    sender.send(outputs("a"))
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    with pytest.raises(NotReady, match="another user"):
        next(iter(answers))
    answers.close()


@pytest.mark.parametrize("name", [f"atoll-answers-{'0' * 32}", "another-service", 5])
def test_names_that_are_not_ours_are_refused(name: object) -> None:
    """A client that sets the parameter by itself has its error by way of Triton."""
    request = Request({}, {tensors.ANSWERS_TO: name})
    with pytest.raises(ValidationError, match="answers_to is"):
        sender_of(TritonResponseSender(request))
    assert request.sender.num_finals == 0
