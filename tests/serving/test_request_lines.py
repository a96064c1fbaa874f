"""What a model's log says of each request: its parts, as far as it came, and what was asked only if
it is to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_backend import Request
from in_process import arguments, generate, running, wait, write_generator

from atoll.logs import REQUESTS
from atoll.serving.requests.report import part
from atoll.serving.tasks.generate import GenerateModel
from atoll.serving.tasks.linked_models import LinkedModel

PARTS = ("tokenize_s", "queue_s", "prefill_s", "decode_s", "send_s")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_generator(tmp_path_factory.mktemp("generator")))


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[dict[str, Any]]]:
    """The facts of each request's line, filled as they are written."""
    found: list[dict[str, Any]] = []
    caplog.set_level(logging.INFO, REQUESTS)

    class Facts(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.facts)  # type: ignore[attr-defined]

    handler = Facts()
    logging.getLogger(REQUESTS).addHandler(handler)
    yield found
    logging.getLogger(REQUESTS).removeHandler(handler)


@pytest.mark.parametrize("log_prompts", ["true", "false"])
def test_what_was_asked_is_told_only_if_it_is_to(
    folder: str, lines: list[dict[str, Any]], log_prompts: str
) -> None:
    settings = {"log_requests": "true", "log_prompts": log_prompts}
    with running(GenerateModel(), model_id=folder, **settings) as model:
        asked = generate("a secret reef", request_id="one")
        model.execute([asked])
        wait(asked)
    (line,) = lines
    assert line["id"] == "one" and all(line[name] >= 0 for name in PARTS)
    assert line.get("prompt") == ("a secret reef" if log_prompts == "true" else None)
    assert ("secret" in str(line)) is (log_prompts == "true")


def test_one_that_fails_has_the_parts_that_it_came_to(
    folder: str, lines: list[dict[str, Any]]
) -> None:
    """It had none but the first."""
    with running(GenerateModel(), model_id=folder, log_requests="true") as model:
        runner, steps = model.engine._core._runner, iter(range(4))
        run = runner.run

        def failing(*given: Any, **more: Any) -> Any:
            if next(steps) == 3:
                raise RuntimeError("a fault of the test")
            return run(*given, **more)

        runner.run = failing
        asked = generate("a reef", request_id="one")
        model.execute([asked])
        wait(asked)
    (line,) = lines
    assert (line["status"], line["error"]) == ("failed", "generation")
    assert [name for name in PARTS if name in line] == list(PARTS[:-1])
    assert sum(line[name] for name in PARTS[:-1]) == pytest.approx(line["seconds"], abs=1e-3)


class Steps(LinkedModel):
    """A pipeline of two steps, the second of which may fail."""

    def configure(self, parameters: Any) -> None: ...

    async def answer(self, request: Any) -> dict[str, Any]:
        with part("retrieve"):
            await asyncio.sleep(0)
        with part("rerank"):
            raise ValueError("no")


def test_a_pipeline_has_the_parts_of_its_steps(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    model = Steps()
    model.initialize(arguments(log_requests="true"))
    asyncio.run(model.execute([Request({}, {"x-request-id": "one"})]))
    (line,) = lines
    assert (line["id"], line["status"]) == ("one", "failed")
    assert 0 <= line["retrieve_s"] + line["rerank_s"] <= line["seconds"] + 1e-3


def test_parameters_that_are_not_utf_8_are_refused_alone() -> None:
    """Whatever Triton had handed over with such a request failed, too."""

    class Broken(Request):
        def parameters(self) -> str:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    model = Steps()
    model.initialize(arguments())
    broken, whole = asyncio.run(model.execute([Broken({}), Request({})]))
    assert (
        "forwarded headers (x-request-id, x-client, traceparent, tracestate), is not UTF-8"
        in str(broken.error().message())
    )
    assert whole.error().message() == "no" or "ValueError" in whole.error().message()
