"""A stop string that is met late: what was computed beyond it is neither sent, counted nor kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fake_backend import Request
from in_process import answer, assert_ended_once, generate, running, write_generator

from atoll.serving.tasks.generate import GenerateModel

RETURNED = (
    "finish_reason", "num_output_tokens", "num_cached_tokens", "token_ids", "logprobs",
    "cumulative_logprob",
)  # fmt: skip
COUNT = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = str(write_generator(tmp_path_factory.mktemp("generator")))
    with running(GenerateModel(), model_id=folder, prefix_caching="false") as found:
        yield found


@pytest.fixture
def delay(model: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """The streamer is woken after every so many steps only, and whenever an answer has ended."""

    def delayed(num_steps: int) -> None:
        counter = iter(range(1, 10**6))

        def wake() -> None:
            core = model.engine._core
            if next(counter) % num_steps == 0 or not core.is_busy:
                type(model.streamer).wake(model.streamer)

        monkeypatch.setattr(model.engine, "_on_step", wake)
        # Between those, it does not look by itself.
        monkeypatch.setattr(model.streamer._event, "wait", _patient(model.streamer._event))

    return delayed


def _patient(event: Any) -> Callable[[float], bool]:
    wait = type(event).wait
    return lambda timeout: bool(wait(event, max(timeout, 5.0)))


def ask(model: Any, text: str, *, stream: bool = False, **options: Any) -> dict[str, list[Any]]:
    """All outputs of a request; texts and tokens of its responses are joined."""
    flags = {f"return_{name}": True for name in RETURNED}
    request: Request = generate(text, stream=stream, max_tokens=COUNT, **options)
    request._inputs += Request(flags, {}).inputs()
    responses = answer(model, request)
    assert_ended_once([request])
    assert request.sender.error is None
    found: dict[str, list[Any]] = {"text": ["".join(r.texts()[0] for r in responses)]}
    found["token_ids"] = [
        token
        for r in responses
        for t in r.output_tensors()
        if t.name() == "token_ids"
        for token in t.as_numpy().tolist()
    ]
    for tensor in responses[-1].output_tensors():
        if tensor.name() not in ("text_output", "token_ids", "logprobs"):
            found[tensor.name()] = np.asarray(tensor.as_numpy()).tolist()
    return found


@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_is_the_same_however_late_its_stop_is_met(
    model: Any, delay: Callable[[int], None], num_steps: int, stream: bool
) -> None:
    whole = ask(model, "some reef")
    text = whole["text"][0]
    assert len(text) > 8 and whole["finish_reason"] == [b"length"]
    delay(num_steps)
    for at in (0, 3, len(text) - 2):
        stop = text[at : at + 2]
        found = ask(model, "some reef", stream=stream, stop=[stop])
        assert found["text"][0] == text[: text.index(stop)]
        assert found["finish_reason"] == [b"stop"] and found["stop_reason"] == [stop.encode()]
        assert found["num_output_tokens"] == [len(found["token_ids"])]
        assert found["token_ids"] == whole["token_ids"][: len(found["token_ids"])]
        assert stop in model.tokenizer.decode(found["token_ids"], True)
        assert stop not in model.tokenizer.decode(found["token_ids"][:-1], True)


def test_a_conversation_goes_on_from_what_was_sent(
    model: Any, delay: Callable[[int], None]
) -> None:
    text = ask(model, "some reef")["text"][0]
    expected = None
    for num_steps in (1, 3, 100):
        delay(num_steps)
        session = {"session_id": f"s{num_steps}"}
        first = ask(model, "some reef", stop=[text[4:6]], parameters=session)
        said = f"some reef{first['text'][0]} and"
        second = ask(model, said, parameters=session)
        again = ask(model, said)
        assert second["text"] == again["text"] and second["token_ids"] == again["token_ids"]
        expected = expected or (first, second)
        assert (first, second) == expected, "the cache has what was sent, no more and no less"
