"""Requests before the engine has them: counted, bounded in time, cancelled, and ended at unload."""

from __future__ import annotations

import json
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
    control,
    finalize,
    generate,
    running,
    wait,
    write_generator,
)  # fmt: skip

from atoll.serving.tasks.generate import GenerateModel

SLOW: dict[str, Any] = {"guided_regex": "slow+"}
LONG = "l" * 20000
QUICK: dict[str, Any] = {"guided_regex": "[a-c]{3}"}
Loaded = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_generator(tmp_path_factory.mktemp("generator")))


@pytest.fixture
def loaded(checkpoint: str) -> Loaded:
    return lambda **settings: running(GenerateModel(), model_id=checkpoint, **settings)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Opens the way of grammars that take long; ``gate.entered`` counts those that have begun."""
    from atoll.sampling.grammar import GrammarCompiler

    found, compile_grammar = threading.Event(), GrammarCompiler.compile
    found.entered = threading.Semaphore(0)  # type: ignore[attr-defined]

    def slowly(self: Any, kind: str, source: str, *is_over: Any) -> Any:
        if source.startswith("slow"):
            found.entered.release()  # type: ignore[attr-defined]
            assert found.wait(PATIENCE_S)
        return compile_grammar(self, kind, source, *is_over)

    monkeypatch.setattr(GrammarCompiler, "compile", slowly)
    yield found
    found.set()


def execute(model: Any, request: Request) -> Request:
    model.execute([request])
    return request


def told(model: Any, question: Request) -> Any:
    (response,) = answer(model, question)
    return json.loads(response.output_tensors()[0].as_numpy().reshape(-1)[0])


def code(request: Request) -> int:
    error = wait(request)[-1].error()
    return int(error.code())


@pytest.fixture
def slow_tokens(gate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of long prompts wait for the gate, too."""
    from atoll.serving.requests.prompts import PromptEncoder

    encode = PromptEncoder.encode

    def slowly(self: Any, prompt: Any, options: Any) -> Any:
        if len(prompt.text or "") >= len(LONG):
            gate.entered.release()
            assert gate.wait(PATIENCE_S)
        return encode(self, prompt, options)

    monkeypatch.setattr(PromptEncoder, "encode", slowly)


@pytest.mark.parametrize("options", [SLOW, {"text": LONG}], ids=["grammar", "long prompt"])
def test_what_is_made_ready_counts_as_held(
    loaded: Loaded, gate: Any, slow_tokens: None, options: dict[str, Any]
) -> None:
    """At a limit of 2, 500 requests with grammars or long prompts were taken."""
    with loaded(max_concurrent_requests="2") as model:
        made = [execute(model, generate(**{"text": "a", **options})) for _ in range(6)]
        for refused in made[2:]:
            assert "2 requests are held; max_concurrent_requests is 2" in str(refused.sender.error)
            assert code(refused) == TritonError.UNAVAILABLE
        gate.set()
        assert_ended_once(made)
        assert wait(execute(model, generate("again")))[-1].error() is None
    assert model.admission.num_held == 0


def test_a_request_for_several_answers_counts_as_so_many(loaded: Loaded) -> None:
    with loaded(max_concurrent_requests="3", max_best_of="8") as model:
        assert not answer(model, generate("a", n=3, temperature=1.0))[-1].has_error()
        never = execute(model, generate("a", n=4, temperature=1.0))
        assert "4 answers; max_concurrent_requests is 3" in str(wait(never)[-1].error().message())
        assert code(never) == TritonError.INVALID_ARG
        assert model.admission.num_held == 0


def test_a_slow_grammar_holds_no_other(loaded: Loaded, gate: Any) -> None:
    with loaded() as model:
        slow = execute(model, generate("a", **SLOW))
        for _ in range(3):
            assert len(answer(model, generate("a", **QUICK))[-1].texts()[0]) == 3
        assert not slow.sender.ended.is_set()
        gate.set()
        assert not wait(slow)[-1].has_error()


def wait_for_quick(model: Any) -> None:
    """Until a grammar that is no work is made; on a busy machine that may take too long, too."""
    deadline = time.monotonic() + PATIENCE_S
    while answer(model, generate("a", **QUICK))[-1].has_error():
        assert time.monotonic() < deadline, "no thread is free"


def test_a_grammar_that_takes_too_long_is_answered_and_bounded(loaded: Loaded, gate: Any) -> None:
    with loaded(max_preparation_s="0.2") as model:
        slow = [execute(model, generate("a", guided_regex=f"slow{'x' * i}")) for i in range(4)]
        for request in slow:
            assert "max_preparation_s" in wait(request)[-1].error().message()
        assert code(slow[0]) == TritonError.INVALID_ARG
        # The threads that are busy for nobody have been replaced.
        wait_for_quick(model)
        for i in range(5, 9):
            wait(execute(model, generate("a", guided_regex=f"slow{'x' * i}")))
        refused = execute(model, generate("a", **QUICK))
        assert "took too long" in str(refused.sender.error or wait(refused)[-1].error().message())
        assert code(refused) == TritonError.UNAVAILABLE
        assert not answer(model, generate("no grammar"))[-1].has_error()
        gate.set()
        wait_for_quick(model)  # their threads have come back
    assert_ended_once(slow)


@pytest.mark.parametrize("options", [SLOW, {"text": LONG}], ids=["grammar", "long prompt"])
def test_a_request_is_cancelled_while_it_is_made_ready(
    loaded: Loaded, gate: Any, slow_tokens: None, options: dict[str, Any]
) -> None:
    """While a long prompt was tokenized, the cancel answered false and was forgotten."""
    with loaded() as model:
        slow = execute(model, generate(**{"text": "a", "request_id": "mine", **options}))
        assert gate.entered.acquire(timeout=PATIENCE_S)
        assert told(model, control("cancel", request_id="mine")) is True
        assert code(slow) == TritonError.CANCELLED
        assert told(model, control("cancel", request_id="mine")) is False
        steps = model.engine.stats().num_steps
        gate.set()
        assert not answer(model, generate("b", max_tokens=1, **QUICK))[-1].has_error()
        assert model.engine.stats().num_steps == steps + 1


def test_a_client_that_leaves_meanwhile_is_seen(loaded: Loaded, gate: Any) -> None:
    with loaded() as model:
        slow = execute(model, generate("a", **SLOW))
        slow.sender.has_left = True
        assert code(slow) == TritonError.CANCELLED
        gate.set()
    assert model.admission.num_held == 0


def test_requests_that_are_made_ready_end_with_the_model(loaded: Loaded, gate: Any) -> None:
    """Those that waited for a grammar were lost."""
    with loaded() as model:
        made = [execute(model, generate("a", guided_regex=f"slow{i}")) for i in range(6)]
        made += [execute(model, generate(LONG)) for _ in range(2)]
        finalize(model)
        for request in made:
            assert "shutting down" in wait(request)[-1].error().message()
            assert code(request) == TritonError.UNAVAILABLE
        gate.set()
    assert_ended_once(made)


@pytest.mark.parametrize("how", ["cancel", "leave"])
def test_several_answers_that_end_in_the_first_step_are_all_ended(
    loaded: Loaded, gate: Any, how: str
) -> None:
    """The answers after the first went on for nobody, for hundreds of steps."""
    with loaded(max_best_of="4") as model:
        runner, has_begun = model.engine._core._runner, threading.Event()
        forward = type(runner).forward

        def waiting(plan: Any) -> Any:
            has_begun.set()
            assert gate.wait(PATIENCE_S)
            return forward(runner, plan)

        runner.forward = waiting
        several = execute(
            model, generate("a", n=4, temperature=1.0, max_tokens=200, request_id="several")
        )
        assert has_begun.wait(PATIENCE_S)
        if how == "cancel":
            assert told(model, control("cancel", request_id="several")) is True
        else:
            several.sender.has_left = True
            wait(several)
        gate.set()
        assert code(several) == TritonError.CANCELLED
        assert not answer(model, generate("b", max_tokens=1))[-1].has_error()
        assert model.engine.stats().num_steps <= 4
        assert model.engine.stats().num_running == 0


def test_a_request_ends_when_its_time_is_over(loaded: Loaded) -> None:
    """Triton tells nothing of a client that leaves a plain HTTP request."""
    with loaded(max_total_tokens="250") as model:
        runner = model.engine._core._runner
        forward = type(runner).forward

        def slowly(plan: Any) -> Any:
            time.sleep(0.01)
            return forward(runner, plan)

        runner.forward = slowly
        for parameters in ({"timeout": 200_000}, {"timeout": "200000"}):
            late = execute(model, generate("a", max_tokens=200, parameters=parameters))
            assert "time is over, 0.2 s" in wait(late)[-1].error().message()
        tensors = {"text_input": "a", "sampling_parameters": '{"max_tokens": 200}'}
        late = execute(model, Request(tensors, timeout=200_000))
        assert "time is over, 0.2 s" in wait(late)[-1].error().message()
        wrong = execute(model, generate("a", parameters={"timeout": "soon"}))
        assert "timeout is 'soon'" in wait(wrong)[-1].error().message()
        assert not answer(model, generate("a", parameters={"timeout": 0}))[-1].has_error()


def test_no_request_takes_longer_than_the_model_allows(loaded: Loaded) -> None:
    with loaded(max_request_s="0.1", max_total_tokens="250") as model:
        runner = model.engine._core._runner
        forward = type(runner).forward
        runner.forward = lambda plan: time.sleep(0.01) or forward(runner, plan)  # type: ignore[func-returns-value]
        late = execute(model, generate("a", max_tokens=200, parameters={"timeout": 10**9}))
        assert "time is over, 0.1 s" in wait(late)[-1].error().message()
        assert code(late) == TritonError.CANCELLED


def test_a_prompt_without_end_is_not_tokenized(loaded: Loaded) -> None:
    """64 MB were tokenized whole to be refused; a prompt that is cut may be longer."""
    with loaded(max_total_tokens="250") as model:
        for text, truncate, most in (
            ("x" * 100_001, None, 100_000),
            ("y" * 2_000_001, 5, 2_000_000),
        ):
            error = answer(model, generate(text, truncate=truncate))[-1].error()
            assert f"text_input has {len(text)} characters" in error.message()
            assert error.message().endswith(f"of at most {most} characters")
        assert not answer(model, generate("a " * 60_000, truncate=5))[-1].has_error()
