"""Turns of conversations take the path of all requests: in order, cancelled, limited, complete."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fake_backend import Request
from in_process import PATIENCE_S, assert_ended_once, running, wait, write_generator

from atoll.serving.requests.turn import Turn
from atoll.serving.tasks.generate import GenerateModel
from atoll.serving.tasks.session import SessionModel
from atoll.serving.triton import response_streamer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_generator(tmp_path_factory.mktemp("generator")))


@pytest.fixture
def models(folder: str) -> Iterator[tuple[Any, Any]]:
    with (
        running(GenerateModel(), "generator", model_id=folder) as generator,
        running(SessionModel(), "session", generator="generator") as session,
    ):
        yield generator, session


def turn(text: str = "a reef", flags: int = 0, **more: Any) -> Request:
    options = '{"max_tokens": 6, "ignore_eos": true}'
    inputs = {"text_input": text, "sampling_parameters": options, "stream": True}
    return Request(inputs, correlation_id="c", flags=flags, **more)


def text_of(request: Request) -> str:
    return "".join(text for response in wait(request) for text in response.texts())


def stalled(generator: Any) -> tuple[threading.Event, threading.Event]:
    """A generator whose next steps wait: (the first has begun, they may go on)."""
    runner, begun, gate = generator.engine._core._runner, threading.Event(), threading.Event()
    forward = type(runner).forward

    def slowly(plan: Any) -> Any:
        begun.set()
        assert gate.wait(PATIENCE_S)
        return forward(runner, plan)

    runner.forward = slowly
    return begun, gate


def test_clients_that_leave_before_a_response(models: tuple[Any, Any]) -> None:
    """Whether the turn is in progress or waits; the conversation goes on from where it was."""
    generator, session = models
    begun, gate = stalled(generator)
    in_progress, waiting, last = turn(flags=1), turn("and a wave"), turn("and a rock")
    session.execute([in_progress, waiting, last])
    assert begun.wait(PATIENCE_S)
    in_progress.sender.has_left = waiting.sender.has_left = True
    for request in (in_progress, waiting):
        wait(request)
        assert request.sender.error == "the client has left"
    assert not last.sender.ended.is_set()
    gate.set()
    found = text_of(last)
    again = turn("and a rock", flags=1)
    session.execute([again])
    assert found == text_of(again) != ""
    assert_ended_once([in_progress, waiting, last, again])


def test_a_turn_s_time_is_over_while_the_generator_stalls(models: tuple[Any, Any]) -> None:
    generator, session = models
    begun, gate = stalled(generator)
    late = turn(flags=1, timeout=200_000)
    session.execute([late])
    assert begun.wait(PATIENCE_S)
    wait(late)
    assert late.sender.error == "the request's time is over, 0.2 s"
    gate.set()
    ended = turn("", flags=2)
    session.execute([ended])
    assert text_of(ended) == ""
    assert_ended_once([late, ended])


def test_responses_that_gather_are_all_sent(
    models: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While sending pauses, a generator's responses may gather; none is lost, the last is final."""
    _, session = models
    monkeypatch.setattr(response_streamer.SendThrottle, "left", lambda self, now: 0.0)
    advance, seen = Turn.advance, list[int]()

    def at_once(self: Turn) -> None:
        if any(is_last for _, is_last in self._delivered):
            seen.append(len(self._delivered))
            advance(self)

    monkeypatch.setattr(Turn, "advance", at_once)
    request = turn(flags=1)
    session.execute([request])
    responses = wait(request)
    assert seen == [len(responses)] and len(responses) > 1
    assert sum(len(response.texts()) for response in responses) == len(responses)
    assert_ended_once([request])


def test_turns_are_counted(models: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    generator, session = models
    counted: list[str] = []
    monkeypatch.setattr(session._metrics._metrics, "count", lambda name, text: counted.append(name))
    for request in (turn(flags=1), turn(""), Request({}, correlation_id="?")):
        session.execute([request])
        wait(request)
    _, gate = stalled(generator)
    left = turn("more")
    left.sender.has_left = True
    session.execute([left])
    wait(left)
    gate.set()
    session.finalize()
    assert sorted(counted) == [
        "atoll_requests_cancelled_total",
        "atoll_requests_failed_empty_total",
        "atoll_requests_failed_validation_total",
        "atoll_requests_succeeded_total",
    ]
