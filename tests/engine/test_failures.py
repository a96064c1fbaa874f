"""Everything that goes wrong is answered: to the right requests, exactly once."""

import threading
import time
from collections.abc import Set
from types import SimpleNamespace
from typing import Any

import pytest
from driving import VOCAB, EchoModel, generate, make_core, request, run
from torch import Tensor

from atoll.config import Settings
from atoll.engine.thread import Engine
from atoll.errors import (
    Cancelled,
    ConfigError,
    GenerationError,
    NotReady,
    Overloaded,
    ValidationError,
)
from atoll.layers.batch import Batch
from atoll.runner.memory import cache_size
from atoll.weights.load import LoadOptions

PATIENCE_S = 60


class BrokenModel(EchoModel):
    """Raises in the given forward passes; its logits of tokens after ``poison`` are NaN."""

    def __init__(self, broken: Set[int] = frozenset(), poison: int | None = None) -> None:
        super().__init__()
        self.broken, self.poison = broken, poison
        self._poisoned: list[bool] = []

    def __call__(self, batch: Batch) -> Tensor:
        hidden = super().__call__(batch)
        if self.forwards in self.broken:
            raise RuntimeError("out of luck")
        if self.poison is not None:
            hidden[batch.input_ids == self.poison] = -1.0
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        logits = super().logits(hidden.clamp_min(0))
        logits[hidden[:, 0] < 0] = float("nan")
        return logits


def test_options_that_leave_no_token_end_the_request_by_name() -> None:
    model = EchoModel()
    core = make_core(model)
    every = tuple((token, float("-inf")) for token in range(VOCAB))
    made, sink = request([1], 10, logit_bias=every)
    core.add(made)
    run(core)
    assert isinstance(sink.error, ValidationError)
    assert "cannot go on after 0 tokens" in str(sink.error) and "leave none" in str(sink.error)


def test_a_failed_step_answers_its_requests_and_the_engine_goes_on() -> None:
    model = BrokenModel(broken={4})
    core = make_core(model, max_batch_size=3)
    sinks = []
    for prompt in ([1], [2], [3]):
        made, sink = request(prompt, 10)
        core.add(made)
        sinks.append(sink)
    waiting, waiting_sink = request([4], 10)
    core.add(waiting)
    for _ in range(4):
        core.step()
    for sink in sinks:
        assert isinstance(sink.error, GenerationError)
        assert "RuntimeError: out of luck" in str(sink.error)
    run(core)
    assert waiting_sink.ids == model.echo([4], 10)
    assert core.stats().num_failed_steps == 1
    assert generate(core, [[1]], max_new_tokens=5) == [model.echo([1], 5)]


def test_running_requests_outside_the_failed_step_are_computed_again() -> None:
    model = BrokenModel(broken={3})
    core = make_core(model, num_blocks=64, max_batch_prefill_tokens=4)
    first, first_sink = request([1] * 12, 5)
    second, second_sink = request([2] * 12, 5)
    core.add(first)
    core.add(second)
    run(core)
    # The third step read the end of the first prompt; the second was still waiting.
    assert isinstance(first_sink.error, GenerationError)
    assert second_sink.ids == model.echo([2] * 12, 5)


def test_a_bug_in_the_scheduler_hangs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    core = make_core(EchoModel())
    made, sink = request([1], 10)
    core.add(made)
    core.step()
    with monkeypatch.context() as patch:
        patch.setattr(core.scheduler, "schedule", lambda draft: 1 / 0)
        core.step()
    assert isinstance(sink.error, GenerationError) and not core.is_busy


def test_a_failing_sink_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = EchoModel()
    core = make_core(model)
    made, sink = request([1], 10)
    monkeypatch.setattr(sink, "on_token", lambda token: 1 / 0)
    other, other_sink = request([2], 10)
    core.add(made)
    core.add(other)
    run(core)
    assert isinstance(sink.error, GenerationError)
    assert other_sink.ids == model.echo([2], 10)


@pytest.mark.parametrize("options", [{}, {"do_sample": True}, {"logprobs": True}])
def test_nan_logits_fail_only_their_request(options: dict[str, Any]) -> None:
    model = BrokenModel(poison=77)
    core = make_core(model)
    good, good_sink = request([1, 2], 6)
    bad, bad_sink = request([77], 6, **options)
    core.add(good)
    core.add(bad)
    run(core)
    assert isinstance(bad_sink.error, GenerationError)
    assert "not finite" in str(bad_sink.error)
    assert good_sink.ids == model.echo([1, 2], 6)
    assert core.stats().num_failed_steps == 0 and core.stats().num_used_blocks == 0


class SlowModel(EchoModel):
    """Goes on while ``is_running`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.is_running = threading.Event()
        self.is_running.set()

    def __call__(self, batch: Batch) -> Tensor:
        time.sleep(0.005)
        assert self.is_running.wait(PATIENCE_S)
        return super().__call__(batch)


@pytest.fixture
def model() -> SlowModel:
    return SlowModel()


@pytest.fixture
def engine(model: SlowModel) -> Any:
    made = Engine(make_core(model, num_blocks=256), max_concurrent_requests=4)
    made.start()
    yield made
    made.stop()


def test_too_many_requests_are_refused_at_once(engine: Engine, model: SlowModel) -> None:
    model.is_running.clear()
    sinks = []
    for i in range(4):
        made, sink = request([i], 200)
        engine.submit(made)
        sinks.append(sink)
    with pytest.raises(Overloaded, match="4 requests are held; max_concurrent_requests is 4"):
        engine.submit(request([9], 1)[0])
    engine.cancel(made.request_id)
    model.is_running.set()
    assert sinks[-1].ended.wait(PATIENCE_S) and isinstance(sinks[-1].error, Cancelled)
    late, late_sink = request([9], 1)
    engine.submit(late)
    assert late_sink.ended.wait(PATIENCE_S) and late_sink.error is None


def test_cancelling_frees_blocks_within_a_step(engine: Engine, model: SlowModel) -> None:
    made, sink = request([1, 2, 3], 240)
    engine.submit(made)
    while not sink.tokens:
        time.sleep(0.001)
    model.is_running.clear()
    steps = engine.stats().num_steps
    engine.cancel(made.request_id)
    model.is_running.set()
    assert sink.ended.wait(PATIENCE_S)
    assert engine.stats().num_used_blocks == 0
    assert engine.stats().num_steps - steps <= 2
    engine.cancel(made.request_id)  # once more changes nothing
    engine.cancel("never seen")


def test_stopping_answers_everybody() -> None:
    engine = Engine(make_core(SlowModel(), num_blocks=256))
    engine.start()
    sinks = []
    for i in range(3):
        made, sink = request([i], 500)
        engine.submit(made)
        sinks.append(sink)
    engine.stop()
    assert all(isinstance(sink.error, NotReady) for sink in sinks)
    with pytest.raises(NotReady):
        engine.submit(request([1], 1)[0])


def test_threads_submit_and_cancel_at_will(engine: Engine) -> None:
    """Eight threads; every request that was taken ends exactly once."""
    taken: list[Any] = []

    def client(seed: int) -> None:
        for i in range(20):
            made, sink = request([seed, i], 1 + (seed * i) % 9)
            try:
                engine.submit(made)
            except Overloaded:
                continue
            taken.append(sink)
            if i % 3 == 0:
                engine.cancel(made.request_id)
            sink.ended.wait(PATIENCE_S)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) > 20 and all(sink.ended.is_set() for sink in taken)
    assert engine.stats().num_used_blocks == 0


def test_a_warm_up_that_fails_says_why() -> None:
    """It named the length of a prompt and left the reason, a missing compiler, say, to the log."""
    model: Any = BrokenModel(broken={1})
    model.config = SimpleNamespace(vocab_size=model.vocab_size)
    settings = Settings(max_batch_total_tokens=64)
    with pytest.raises(ConfigError, match=r"prompt of 32 tokens cannot be run \(.*out of luck\)"):
        cache_size(settings, model, LoadOptions(), 64)
