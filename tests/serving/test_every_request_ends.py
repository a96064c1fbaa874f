"""Every request gets exactly one final response, whatever happens while it is answered.

Random schedules of requests, cancels, clients that leave, responses that find no room, steps that
fail and models that are unloaded; afterwards no request, block, thread or conversation is left.
"""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import patch

import pytest
from fake_backend import Request, SharedMemory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process import (
    assert_ended_once,
    control,
    finalize,
    generate,
    running,
    write_embedder,
    write_generator,
)  # fmt: skip
from long_requests import wait_until

from atoll.serving.tasks.embed import EmbedModel
from atoll.serving.tasks.generate import GenerateModel
from atoll.serving.tasks.session import SessionModel
from atoll.serving.triton import shared_memory

Step = tuple[str, int]
# Of all the ways a schedule can go, so many are tried; each loads its models.
PROFILE = settings(
    max_examples=20, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
SCHEMA = {"guided_json": {"type": "object", "properties": {"a": {"type": "integer"}}}}
REGEX = {"guided_regex": "[a-z]{1,40}"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "generator": str(write_generator(folder / "generator")),
        "embedder": str(write_embedder(folder / "embedder")),
    }


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "is_plentiful", lambda num_bytes: False)
    monkeypatch.setattr(shared_memory, "is_exhausted", lambda: False)


def fail_steps(engine: Any, count: int) -> None:
    """The next forwards of a generator's engine raise."""
    runner, left = engine._core._runner, [count]
    forward = type(runner).forward

    def failing(plan: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise RuntimeError("a step that fails")
        return forward(runner, plan)

    runner.forward = failing


def steps(*names: str) -> st.SearchStrategy[list[Step]]:
    return st.lists(st.tuples(st.sampled_from(names), st.integers(0, 7)), max_size=14)


GENERATOR_STEPS = steps(
    "whole", "stream", "several", "long", "grammar", "wrong", "cancel", "leave", "no_room",
    "no_step", "forget", "wait",
)  # fmt: skip


class Generating:
    """A generator under a schedule."""

    def __init__(self, model: Any) -> None:
        self.model, self.memory = model, SharedMemory()
        self.requests: list[Request] = []

    def run(self, schedule: list[Step]) -> None:
        for name, number in schedule:
            getattr(self, name)(number)

    def _send(self, text: str, **options: Any) -> None:
        request = generate(
            text, memory=self.memory, request_id=f"id-{len(self.requests)}", **options
        )
        self.requests.append(request)
        self.model.execute([request])

    def whole(self, number: int) -> None:
        session = {"session_id": f"s{number % 3}"} if number % 2 else {}
        self._send("hello " * (number + 1), max_tokens=4 * number + 1, parameters=session)

    def stream(self, number: int) -> None:
        self._send("a stream", stream=True, max_tokens=6 * number + 1)

    def several(self, number: int) -> None:
        self._send("several", n=2, temperature=1.0, max_tokens=4 * number + 1)

    def long(self, number: int) -> None:
        self._send("l" * 20000)

    def grammar(self, number: int) -> None:
        self._send("grammar", **(SCHEMA if number % 2 else REGEX))

    def wrong(self, number: int) -> None:
        wrong: list[dict[str, Any]] = [
            {"temperature": -1},
            {"guided_regex": "("},
            {"max_tokens": 9999},
            {"n": 900},
        ]
        self._send("wrong", **wrong[number % 4])

    def cancel(self, number: int) -> None:
        if self.requests:
            name = f"id-{number % len(self.requests)}"
            self.model.execute([control("cancel", request_id=name)])

    def leave(self, number: int) -> None:
        if self.requests:
            self.requests[number % len(self.requests)].sender.has_left = True

    def no_room(self, number: int) -> None:
        self.memory.fail_next = number

    def no_step(self, number: int) -> None:
        fail_steps(self.model.engine, number % 3)

    def forget(self, number: int) -> None:
        self.model.execute([control("forget", session_id=f"s{number % 3}")])

    def wait(self, number: int) -> None:
        time.sleep(number / 500)


@PROFILE
@given(schedule=GENERATOR_STEPS, is_unloaded_at_once=st.booleans())
def test_a_generator_ends_every_request(
    checkpoints: dict[str, str], scarce: None, schedule: list[Step], is_unloaded_at_once: bool
) -> None:
    with running(GenerateModel(), model_id=checkpoints["generator"]) as model:
        driven = Generating(model)
        driven.run(schedule)
        if is_unloaded_at_once:
            finalize(model)
        assert_ended_once(driven.requests)
        if not is_unloaded_at_once:
            fail_steps(model.engine, 0)
            last = generate("and now?")
            model.execute([last])
            assert_ended_once([last])
            assert last.sender.error is None and model.engine.failure is None
            for number in range(3):
                driven.forget(number)
            finalize(model)
            assert model.engine.stats().num_used_blocks == 0
        assert model.engine.stats().num_running == model.engine.stats().num_waiting == 0
        assert not model.streamer._open and model.admission.num_held == 0


@PROFILE
@given(
    schedule=steps(
        "embed", "many", "hurried", "wrong", "cancel", "leave", "no_room", "no_step", "wait"
    ),
    is_unloaded_at_once=st.booleans(),
)
def test_an_encoder_ends_every_request(
    checkpoints: dict[str, str], scarce: None, schedule: list[Step], is_unloaded_at_once: bool
) -> None:
    memory, requests = SharedMemory(), list[Request]()

    def send(model: Any, texts: list[str], timeout: int = 0) -> None:
        request = Request(
            {"text_input": texts}, memory=memory, is_decoupled=False,
            request_id=f"id-{len(requests)}", timeout=timeout,
        )  # fmt: skip
        requests.append(request)
        model.execute([request])

    with (
        patch.object(shared_memory, "has_room", memory.has_room),
        running(EmbedModel(), model_id=checkpoints["embedder"]) as model,
    ):
        forward, num_broken = model.engine._forward, [0]

        def breakable(batch: Any, items: Any) -> Any:
            if num_broken[0] > 0:
                num_broken[0] -= 1
                raise RuntimeError("a forward that fails")
            return forward(batch, items)

        model.engine._forward = breakable
        for name, number in schedule:
            if name in ("embed", "many"):
                send(model, ["a reef"] * (1 if name == "embed" else 100 + number))
            elif name == "hurried":
                send(model, ["a reef"] * 100, 10_000 * (number + 1))
            elif name == "wrong":
                send(model, [""])
            elif name == "cancel":
                question = {"control": f'{{"op": "cancel", "request_id": "id-{number}"}}'}
                model.execute([Request({}, question, is_decoupled=False)])
            elif name == "leave" and requests:
                requests[number % len(requests)].sender.has_left = True
            elif name == "no_room":
                memory.fail_next = number
            elif name == "no_step":
                num_broken[0] = number % 3
            else:
                time.sleep(number / 500)
        if is_unloaded_at_once:
            finalize(model)
        assert_ended_once(requests)
        if not is_unloaded_at_once:
            memory.fail_next = num_broken[0] = 0
            send(model, ["and now?"])
            assert_ended_once(requests[-1:])
            assert requests[-1].sender.error is None and requests[-1].sender.all
        assert model.admission.num_held == 0


@PROFILE
@given(
    schedule=steps("begin", "turn", "end", "wrong", "leave", "no_room", "no_step", "wait"),
    is_unloaded_at_once=st.booleans(),
)
def test_a_session_ends_every_turn(
    checkpoints: dict[str, str], scarce: None, schedule: list[Step], is_unloaded_at_once: bool
) -> None:
    memory, requests = SharedMemory(), list[Request]()

    def send(session: Any, key: int, flags: int, text: str = "more") -> None:
        inputs = {"text_input": text, "sampling_parameters": '{"max_tokens": 6}', "stream": True}
        request = Request(inputs, memory=memory, correlation_id=f"c{key % 2}", flags=flags)
        requests.append(request)
        session.execute([request])

    with (
        running(GenerateModel(), "generator", model_id=checkpoints["generator"]) as generator,
        running(SessionModel(), "session", generator="generator") as session,
    ):
        flags = {"begin": 1, "turn": 0, "end": 2}
        for name, number in schedule:
            if name in flags:
                send(session, number, flags[name])
            elif name == "wrong":
                send(session, number, 0, "")
            elif name == "leave" and requests:
                requests[number % len(requests)].sender.has_left = True
            elif name == "no_room":
                memory.fail_next = number
            elif name == "no_step":
                fail_steps(generator.engine, number % 3)
            else:
                time.sleep(number / 500)
        if is_unloaded_at_once:
            finalize(session)
        assert_ended_once(requests)
        if not is_unloaded_at_once:
            memory.fail_next = 0
            fail_steps(generator.engine, 0)
            for key in (0, 1):  # they go on, or can begin again
                send(session, key, 1)
                send(session, key, 2)
            assert_ended_once(requests)
            assert [r.sender.error for r in requests[-4:]] == [None] * 4
            wait_until(lambda: not session._conversations, lambda: str(session._conversations))
        else:
            finalize(generator)
