"""The response streamer with requests that are scripted: no model, no engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from in_process import PATIENCE_S
from long_requests import wait_until

from atoll.errors import Cancelled
from atoll.serving.requests.served_request import ServedRequest
from atoll.serving.triton.response_streamer import ResponseStreamer
from atoll.serving.triton.tensors import FINAL


class Sender:
    """Keeps flags and errors; counts the questions whether its client has left."""

    def __init__(self) -> None:
        self.flags: list[int] = []
        self.errors: list[BaseException] = []
        self.has_left, self.num_questions = False, 0

    def send(self, outputs: Any, flags: int = 0) -> None:
        self.flags.append(flags)

    def fail(self, error: BaseException) -> None:
        self.errors.append(error)

    def is_cancelled(self) -> bool:
        self.num_questions += 1
        return self.has_left


class Scripted(ServedRequest):
    """Complete when the test says so."""

    is_stream = True

    def __init__(self, streamer: Any) -> None:
        self.sender: Any = Sender()
        super().__init__(self.sender, streamer, num_answers=1, limit_s=None)
        self.is_over, self.num_advances = False, 0

    @property
    def is_complete(self) -> bool:
        return self.is_over

    def advance(self) -> None:
        self.num_advances += 1

    def cancel(self) -> None: ...

    def has_news(self) -> None:
        """Something was delivered."""
        self._call_attention()


class Model:
    """Answers whenever it is asked; keeps the requests that were closed."""

    def __init__(self) -> None:
        self.respond_with: Callable[[Any], list[Any]] = lambda request: [{}]
        self.closed_ones: list[Any] = []

    def respond(self, request: Any, even_if_empty: bool) -> list[Any]:
        return self.respond_with(request)

    def overdue(self, request: Any, waited_s: float) -> None: ...

    def closing(self, request: Any) -> None: ...

    def closed(self, request: Any) -> None:
        self.closed_ones.append(request)

    def tick(self) -> None: ...


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def streamer(model: Model) -> Iterator[ResponseStreamer[Any]]:
    found: ResponseStreamer[Any] = ResponseStreamer(model)
    found.start()
    yield found
    found.stop()


def test_an_error_that_comes_after_the_answer_is_not_the_requests(
    model: Model, streamer: ResponseStreamer[Any]
) -> None:
    """A client that left while the last response was made: it was answered, and counts as that."""
    request = Scripted(streamer)

    def respond(request: Any) -> list[Any]:
        request.error = Cancelled("the client has left")  # as another thread would
        return [{}]

    model.respond_with = respond
    streamer.open(request)
    request.is_over = True
    request.has_news()
    wait_until(lambda: model.closed_ones == [request], lambda: "it does not end")
    assert request.error is None
    assert request.sender.flags == [FINAL] and not request.sender.errors


def test_clients_of_many_idle_requests_are_all_asked_after(streamer: ResponseStreamer[Any]) -> None:
    """A few at a time, in turn: one of the last was asked after only when others had ended."""
    requests = [Scripted(streamer) for _ in range(100)]
    for request in requests:
        streamer.open(request)
    requests[-1].sender.has_left = True
    wait_until(lambda: bool(requests[-1].sender.errors), lambda: "nobody asked after the last")
    assert isinstance(requests[-1].sender.errors[0], Cancelled)


def test_news_of_a_request_that_has_ended_is_not_looked_at(
    model: Model, streamer: ResponseStreamer[Any]
) -> None:
    request, other = Scripted(streamer), Scripted(streamer)
    for one in (request, other):
        streamer.open(one)
    request.is_over = True
    request.has_news()
    wait_until(lambda: model.closed_ones == [request], lambda: "it does not end")
    before = request.num_advances
    request.has_news()
    other.has_news()
    wait_until(lambda: other.num_advances > 0, lambda: "news are not looked at")
    assert request.num_advances == before and request.sender.flags == [FINAL]


def test_a_client_of_a_fast_stream_is_asked_after_every_few_tokens(
    model: Model, streamer: ResponseStreamer[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when its turn comes among all requests."""
    asked = threading.Event()
    monkeypatch.setattr(streamer, "_check_open", asked.set)  # whose turn never comes
    request = Scripted(streamer)
    streamer.open(request)
    request.sender.has_left = True
    deadline = time.monotonic() + PATIENCE_S
    while not request.sender.errors and time.monotonic() < deadline:
        request.num_tokens_unpolled += 1
        request.has_news()
        time.sleep(0.001)
    assert isinstance(request.sender.errors[0], Cancelled)
    assert request.sender.num_questions >= 1 and asked.is_set()
