"""Bugs outside a step: the engine's thread goes on, or says that it is not healthy."""

import threading
from operator import attrgetter
from typing import Any

import pytest
from driving import EchoModel, make_core, request

from atoll.engine.thread import Engine
from atoll.errors import (
    GenerationError,
    NotReady,
)


def _fails(*_: object) -> Any:
    raise ZeroDivisionError("a bug")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An engine, and a way to break one of its parts while it runs."""
    engine = Engine(make_core(EchoModel(), num_blocks=64))
    engine.start()
    yield engine, monkeypatch
    monkeypatch.undo()
    engine.stop()


def _answer(engine: Engine, count: int = 4) -> Any:
    made, sink = request([1], count)
    engine.submit(made)
    assert sink.ended.wait(20), "a request without an end"
    return sink


@pytest.mark.parametrize(
    ("part", "method"), [("scheduler", "add"), ("scheduler.session_cache", "expire")]
)
def test_a_bug_outside_the_step_ends_requests_and_not_the_thread(
    failing: Any, part: str, method: str
) -> None:
    """An exception between two steps ended the thread: whoever came later waited for ever."""
    engine, patch = failing
    with patch.context() as once:
        once.setattr(attrgetter(part)(engine._core), method, _fails)
        made, sink = request([1], 4)
        engine.submit(made)
        assert sink.ended.wait(20) and isinstance(sink.error, GenerationError)
    assert _answer(engine).error is None and engine.failure is None


def test_an_engine_that_goes_on_failing_says_that_it_is_not_healthy(failing: Any) -> None:
    """What the watchdog reads, which then loads the model again."""
    engine, patch = failing
    _answer(engine)
    patch.setattr(engine._core.scheduler.session_cache, "expire", _fails)
    patch.setattr("atoll.engine.held_sequences.SessionCache.expire", _fails)
    engine._thread.join(20)
    assert "failed 5 times in a row" in str(engine.failure)
    with pytest.raises(NotReady, match="is not healthy"):
        engine.submit(request([1], 1)[0])


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_the_last_words_of_a_thread_reach_every_request(
    failing: Any, end: type[BaseException]
) -> None:
    engine, patch = failing

    all_are_there = threading.Event()

    def dies(plan: Any) -> Any:
        assert all_are_there.wait(20)
        raise end("no more")

    patch.setattr(engine._core._runner, "forward", dies)
    sinks = []
    for number in range(3):
        made, sink = request([number], 4)
        engine.submit(made)
        sinks.append(sink)
    all_are_there.set()
    for sink in sinks:
        assert sink.ended.wait(20) and isinstance(sink.error, NotReady)
        assert "is not healthy" in str(sink.error)
    with pytest.raises(NotReady, match=end.__name__):
        engine.submit(request([1], 1)[0])


def test_a_step_that_cannot_be_told_of_is_not_the_end(failing: Any) -> None:
    engine, patch = failing
    with patch.context() as once:
        once.setattr(engine, "_on_step", _fails)
        assert _answer(engine, 3).error is None
    assert _answer(engine).error is None
