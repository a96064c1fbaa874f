"""Steps are plain data: what a run computed is written to a file, and computed again from it."""

import dataclasses
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driving import Collector, load, make_core, request, run
from tiny.checkpoint import write
from tiny.decoders import DECODERS
from tiny.t5 import write_t5

from atoll.engine.core import EngineCore
from atoll.engine.request import Request, SamplingOptions
from atoll.engine.speculation import NgramDraft
from atoll.runner import frames
from atoll.runner.step_input import StepInput, StepOutput

OPTIONS: list[dict[str, Any]] = [
    {"first_time": 90},
    {}, {"do_sample": True, "seed": 1, "top_k": 5, "top_p": 0.8, "temperature": 0.7},
    {"do_sample": True, "seed": 2**64 - 1, "min_p": 0.05, "typical_p": 0.9, "watermark": True},
    {"repetition_penalty": 1.2, "frequency_penalty": 0.3, "presence_penalty": 0.1,
     "no_repeat_ngram_size": 2, "min_new_tokens": 2, "logit_bias": ((3, 1.5), (4, -2.0)),
     "eos_token_ids": frozenset([2]), "logprobs": True, "top_logprobs": 3},
    {"prompt_logprobs": True, "prompt_top_logprobs": 2, "logprobs": True}, {"watermark": True},
    {"num_beams": 3, "logprobs": True, "top_logprobs": 2, "forced_eos_token_id": 7},
]  # fmt: skip


class Grammar:
    """Even tokens alone; a matcher of its own."""

    vocab_size = 96
    is_done = False

    def matcher(self) -> Any:
        return self

    def advance(self, token_id: int) -> None:
        assert token_id % 2 == 0

    def fill(self, bitmask: Any, row: int) -> None:
        bitmask[row] = 0x55555555


def recorded(core: EngineCore, path: Path) -> Iterator[StepOutput]:
    """Runs to the end; the steps go to the file, the outputs are returned."""
    runner: Any = core._runner
    compute = runner.run
    with path.open("wb") as file:

        def run_recorded(step: StepInput) -> StepOutput:
            frame = step.to_bytes()
            file.write(len(frame).to_bytes(8, "little") + frame)
            outputs.append(compute(step))
            return outputs[-1]

        outputs: list[StepOutput] = []
        runner.run = run_recorded
        run(core)
    yield from outputs


def steps_of(path: Path) -> Iterator[StepInput]:
    data, start = path.read_bytes(), 0
    while start < len(data):
        end = start + 8 + int.from_bytes(data[start : start + 8], "little")
        yield StepInput.from_bytes(data[start + 8 : end])
        start = end


def assert_equal(found: Any, expected: Any) -> None:
    """Field by field, dtypes and shapes too."""
    if not dataclasses.is_dataclass(expected):
        assert (found is None) == (expected is None)
        if expected is not None:
            assert found.dtype == expected.dtype and np.array_equal(found, expected)
        return
    assert type(found) is type(expected)
    for field in dataclasses.fields(expected):
        assert_equal(getattr(found, field.name), getattr(expected, field.name))


def decoder_core(folder: Path) -> EngineCore:
    """Chunks, drafts, prefixes, graphs, and every option that a request has."""
    write(next(v for v in DECODERS if v.name == "llama"), folder)
    core = make_core(load(folder), draft=NgramDraft(3), max_batch_prefill_tokens=7)
    for index, options in enumerate(OPTIONS * 2):
        prompt = [5, 9, 11, 5, 9] * (1 + index % 3)
        core.add(request(prompt, 9, **options)[0])
    core.add(request([3], 6, grammar=Grammar())[0])
    return core


def hybrid_core(folder: Path) -> EngineCore:
    """States that begin at a prefix's, are saved for others, and are kept before a draft."""
    write(next(v for v in DECODERS if v.name == "qwen3.5"), folder)
    core = make_core(load(folder), draft=NgramDraft(3), max_batch_prefill_tokens=16)
    for _ in range(3):
        core.add(request([5, 9, 11, 5, 9, 11, 5, 9, 11, 5], 9)[0])
    return core


def encoder_decoder_core(folder: Path) -> EngineCore:
    write_t5("flan-t5", folder)
    core = make_core(load(folder))
    for index in range(4):
        sampling = SamplingOptions(max_new_tokens=4 + index)
        ids = tuple(range(5, 9 + 3 * index))
        core.add(Request(f"{index}", (0,), sampling, Collector(), encoder_ids=ids))
    return core


@pytest.mark.parametrize("build", [decoder_core, hybrid_core, encoder_decoder_core])
def test_recorded_steps_give_the_same_tokens(build: Any, tmp_path: Path) -> None:
    path = tmp_path / "steps"
    outputs = list(recorded(build(tmp_path), path))
    again: Any = make_core(load(tmp_path))._runner
    steps = list(steps_of(path))
    assert len(steps) == len(outputs) > 5
    for step, expected in zip(steps, outputs, strict=True):
        assert_equal(again.run(step), expected)
        assert_equal(StepOutput.from_bytes(expected.to_bytes()), expected)


def test_frames_hold_everything(tmp_path: Path) -> None:
    """Every kind of field comes up, and is the same after pickle and after the named frame."""
    path = tmp_path / "steps"
    list(recorded(decoder_core(tmp_path), path))
    steps = list(steps_of(path))
    list(recorded(hybrid_core(tmp_path), path))
    used = set()
    for step in [*steps_of(path), *steps]:
        for copy in (StepInput.from_bytes(step.to_bytes()), pickle.loads(pickle.dumps(step))):
            assert_equal(copy, step)
        used |= {name for name, _ in frames._flat("", step)}
    expected = {
        *(f"sampling.{f.name}" for f in dataclasses.fields(type(step.sampling)) if f.type),
        *(f.name for f in dataclasses.fields(StepInput)),
    }
    held = {name for name in expected if any(u == name or u.startswith(name + ".") for u in used)}
    assert expected - held == {"encoder", "cross", "sampling.late_ends"}


def test_arrays_of_a_frame_are_aligned(tmp_path: Path) -> None:
    """Vector instructions read them where they are."""
    path = tmp_path / "steps"
    list(recorded(decoder_core(tmp_path), path))
    for step in steps_of(path):
        frame = step.to_bytes()
        start = 8 + int.from_bytes(frame[:8], "little")
        table = json.loads(frame[8:start])
        assert len(table) > 5
        assert [name for name, *_, offset in table if (start + offset) % 64] == []


def test_a_frame_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps"
    list(recorded(encoder_decoder_core(tmp_path), path))
    with pytest.raises(ValueError, match="StepOutput has no .*token_ids"):
        StepOutput.from_bytes(next(steps_of(path)).to_bytes())
