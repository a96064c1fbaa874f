"""The time limit of a request to an encoder or in a conversation: kept, also while others run."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from fake_backend import Request, TritonError
from in_process import (
    PATIENCE_S,
    answer,
    assert_ended_once,
    running,
    wait,
    write_embedder,
    write_generator,
)  # fmt: skip

from atoll.serving.tasks.embed import EmbedModel
from atoll.serving.tasks.generate import GenerateModel
from atoll.serving.tasks.session import SessionModel

Loaded = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_embedder(tmp_path_factory.mktemp("embedder")))


@pytest.fixture
def loaded(embedder: str) -> Loaded:
    return lambda **settings: running(EmbedModel(), model_id=embedder, **settings)


def texts(parameters: dict[str, Any] | None = None, count: int = 1, **more: Any) -> Request:
    return Request({"text_input": ["a b"] * count}, parameters, is_decoupled=False, **more)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    found = threading.Event()
    yield found
    found.set()


def held(model: Any, gate: threading.Event) -> Request:
    """A request at whose forward the engine's thread waits."""
    forward, begun = model.engine._forward, threading.Event()

    def slowly(batch: Any, pack: Any) -> Any:
        begun.set()
        assert gate.wait(PATIENCE_S)
        return forward(batch, pack)

    model.engine._forward = slowly
    request = texts()
    model.execute([request])
    assert begun.wait(PATIENCE_S)
    return request


def late(request: Request) -> str:
    """The message of a request whose time was over."""
    error = wait(request)[-1].error()
    assert error.code() == TritonError.CANCELLED
    return str(error.message())


def test_a_request_that_waits_is_ended(loaded: Loaded, gate: threading.Event) -> None:
    """``timeout`` was not read: unknown as a parameter, ignored as gRPC clients give it."""
    with loaded() as model:
        first = held(model, gate)
        waiting = [
            texts({"timeout": 200_000}), texts({"timeout": "200000"}, 3), texts(timeout=200_000)
        ]  # fmt: skip
        model.execute(waiting)
        for request in waiting:
            assert "the request's time is over, 0.2 s" in late(request)
        patient = texts({"timeout": 10**9})
        model.execute([patient])
        assert model.admission.num_held == 2
        gate.set()
        assert not wait(first)[-1].has_error() and not wait(patient)[-1].has_error()
        assert_ended_once([first, patient, *waiting])
        assert model.admission.num_held == 0 and not model.streamer._open


def test_a_request_that_is_computed_is_ended(loaded: Loaded, gate: threading.Event) -> None:
    with loaded(max_request_s="0.2") as model:
        first = held(model, gate)
        assert "time is over, 0.2 s" in late(first)
        shorter, longer = texts({"timeout": 100_000}), texts({"timeout": 10**9})
        model.execute([shorter, longer])
        assert "time is over, 0.1 s" in late(shorter) and "time is over, 0.2 s" in late(longer)
        gate.set()
        # Where the machine is busy, 0.2 s may be too little for one or another.
        assert any(not answer(model, texts())[-1].has_error() for _ in range(50))
        assert_ended_once([first, shorter, longer])


def test_a_client_that_leaves_and_a_time_that_is_over(
    loaded: Loaded, gate: threading.Event
) -> None:
    """Whoever has had the answer is not asked after: Triton would end."""
    with loaded() as model:
        held(model, gate)
        requests = [texts({"timeout": 60_000 + 1_000 * at}) for at in range(60)]
        model.execute(requests)
        for request in requests[::2]:
            request.sender.has_left = True
        time.sleep(0.1)
        gate.set()
        assert_ended_once(requests)


@pytest.mark.parametrize(("value", "word"), [("soon", "soon"), (-1, "-1"), (1.5, "1.5")])
def test_what_is_no_time(loaded: Loaded, value: Any, word: str) -> None:
    with loaded(max_request_s="0") as model:
        wrong = answer(model, texts({"timeout": value}))[-1].error()
        assert f"timeout is {value!r}" in wrong.message()
        assert not answer(model, texts({"timeout": 0}))[-1].has_error()


def test_a_turn_has_its_time(
    tmp_path_factory: pytest.TempPathFactory, gate: threading.Event
) -> None:
    """The turns before it count, as its client waits for them."""
    folder = str(write_generator(tmp_path_factory.mktemp("generator")))
    generator = GenerateModel()
    with (
        running(generator, "generator", model_id=folder),
        running(SessionModel(), "session", generator="generator") as model,
    ):
        runner = generator.engine._core._runner
        forward = type(runner).forward
        runner.forward = lambda plan: gate.wait(0.02) * 0 or forward(runner, plan)

        def turn(flags: int = 0, **more: Any) -> Request:
            options = '{"max_tokens": 120, "ignore_eos": true}'
            tensors = {"text_input": "a", "sampling_parameters": options}
            return Request(tensors, correlation_id="1", flags=flags, **more)

        first = turn(1, timeout=300_000)
        second, third = turn(parameters={"timeout": 200_000}), turn(parameters={"timeout": 10**9})
        model.execute([first, second, third])
        assert "time is over, 0." in late(first)
        # Its own limit, or what the turn before has left of it.
        left = re.search(r"time is over, (0\.\d+) s", late(second))
        assert left is not None and float(left[1]) <= 0.2
        gate.set()
        assert not wait(third)[-1].has_error()
        assert_ended_once([first, second, third])
