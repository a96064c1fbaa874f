"""T5 in the continuous batch: encoder inputs in blocks of their own, budgets, preemption."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from driving import Collector, load, make_core, run
from engines import answers, engine
from tiny.t5 import VOCAB, write_t5

from atoll.engine.core import EngineCore
from atoll.engine.request import Request, SamplingOptions
from atoll.errors import Cancelled

COUNT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("t5")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> tuple[Any, Any]:
    """transformers' model and ours."""
    return write_t5("flan-t5", folder), load(folder)


def _inputs(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(2, VOCAB, (n,), generator=generator).tolist() for n in lengths]


def _add(core: EngineCore, name: str, ids: Sequence[int], session: str | None = None) -> Collector:
    sink, options = Collector(), SamplingOptions(max_new_tokens=COUNT)
    core.add(Request(name, (0,), options, sink, encoder_ids=tuple(ids), session_id=session))
    return sink


def _answers(core: EngineCore, inputs: list[list[int]]) -> list[list[int]]:
    sinks = [_add(core, f"r{i}", ids) for i, ids in enumerate(inputs)]
    run(core)
    assert [sink.error for sink in sinks] == [None] * len(sinks)
    return [sink.ids for sink in sinks]


@torch.inference_mode()
def _expected(reference: Any, ids: Sequence[int]) -> list[int]:
    """Without its ``generate``, which fails where the stacks' depths differ."""
    answer = [0]
    for _ in range(COUNT):
        out = reference(
            input_ids=torch.tensor([list(ids)]),
            decoder_input_ids=torch.tensor([answer]),
            use_cache=False,
        )
        answer.append(int(out.logits[0, -1].argmax()))
    return answer[1:]


def test_answers_are_transformers(checkpoint: tuple[Any, Any]) -> None:
    reference, model = checkpoint
    inputs = _inputs(30, 3, 17, 9)
    answers = _answers(make_core(model), inputs)
    assert answers == [_expected(reference, ids) for ids in inputs]
    assert len({tuple(answer) for answer in answers}) == len(inputs)


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({"num_blocks": 11}, id="preemption"),
        pytest.param({"max_batch_prefill_tokens": 8}, id="inputs-longer-than-the-budget"),
        pytest.param({"max_batch_size": 1}, id="one-at-a-time"),
        pytest.param({"prefix_caching": False}, id="no-prefixes"),
    ],
)
def test_scarcity_changes_nothing(checkpoint: tuple[Any, Any], limits: dict[str, Any]) -> None:
    _, model = checkpoint
    inputs = _inputs(20, 3, 17, 9, 5)
    core = make_core(model, **limits)
    assert _answers(core, inputs) == _answers(make_core(model), inputs)
    assert core.stats().num_used_blocks == 0
    if "num_blocks" in limits:
        assert core.stats().num_preemptions > 0


def test_inputs_that_exceed_the_budget_together_are_encoded_one_after_the_other(
    checkpoint: tuple[Any, Any],
) -> None:
    core = make_core(checkpoint[1], max_batch_prefill_tokens=16)
    for i, ids in enumerate(_inputs(10, 6, 10, 30)):
        _add(core, f"r{i}", ids)
    num_running = []
    for _ in range(4):
        core.step()
        num_running.append(core.stats().num_running)
    # The decoder's token counts beside its input; 30 tokens, too many for any step, go alone.
    assert num_running == [1, 2, 3, 4]


def test_prefixes_are_shared_below_the_same_input_only(checkpoint: tuple[Any, Any]) -> None:
    """Decoder keys depend on the encoder's input: equal decoder tokens are not enough."""
    _, model = checkpoint
    first, second = _inputs(10, 10)
    core = make_core(model, block_size=2)
    alone = [_answers(make_core(model), [ids])[0] for ids in (first, second)]
    assert [_answers(core, [ids])[0] for ids in (first, second, first)] == [*alone, alone[0]]


def test_a_conversation_keeps_the_decoder_only_for_the_same_input(
    checkpoint: tuple[Any, Any],
) -> None:
    _, model = checkpoint
    first, second = _inputs(10, 11)
    core = make_core(model)
    for ids in (first, first, second):
        sink = _add(core, "r", ids, session="s")
        run(core)
        assert sink.ids == _answers(make_core(model), [ids])[0]
    core.scheduler.session_cache.forget("s")
    assert core.stats().num_used_blocks == 0


def test_the_input_counts_as_prompt_and_cancelling_frees_its_blocks(
    checkpoint: tuple[Any, Any],
) -> None:
    core = make_core(checkpoint[1])
    done, cancelled = (_add(core, f"r{i}", ids) for i, ids in enumerate(_inputs(13, 9)))
    core.step()
    assert core.stats().num_used_blocks == (4 + 1) + (3 + 1)
    core.cancel("r1", Cancelled("no longer wanted"))
    assert core.stats().num_used_blocks == 5
    run(core)
    assert done.outcome is not None and done.outcome.num_prompt_tokens == 13
    assert isinstance(cancelled.error, Cancelled)


@pytest.mark.parametrize(("num_in", "num_out"), [(17, 15), (10, 22), (1, 31), (31, 1), (16, 16)])
def test_requests_at_the_limit_are_served(
    folder: Path, checkpoint: tuple[Any, Any], num_in: int, num_out: int
) -> None:
    """Input and answer are rounded up to blocks separately: 17+15 tokens of 32 in blocks of 16 were
    never admitted, 10+22 were preempted for ever, and the engine's thread spun."""
    with engine(folder, max_batch_total_tokens=32, block_size=16) as loaded:
        assert loaded.limits.max_total_tokens == 32
        for _ in range(2):
            found = answers(loaded, _inputs(num_in), num_out)
            assert [len(ids) for ids in found] == [num_out]


@pytest.mark.parametrize(("num_in", "num_out"), [(17, 15), (10, 22), (40, 3)])
def test_what_no_cache_can_hold_ends_and_others_go_on(
    checkpoint: tuple[Any, Any], num_in: int, num_out: int
) -> None:
    core = make_core(checkpoint[1], num_blocks=2, block_size=16)
    sinks = []
    for name, length, count in (("a", num_in, num_out), ("b", 6, 4)):
        sinks.append(Collector())
        options = SamplingOptions(max_new_tokens=count)
        ids = tuple(_inputs(length)[0])
        core.add(Request(name, (0,), options, sinks[-1], encoder_ids=ids))
    assert run(core) < 100
    assert "the KV cache has 2" in str(sinks[0].error)
    assert len(sinks[1].ids) == 4 and core.stats().num_used_blocks == 0
