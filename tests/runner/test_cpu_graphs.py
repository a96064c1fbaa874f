"""Decoding steps by graphs: used only after they gave what plain steps give, and then equal."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from driving import Collector, load, make_core, run
from tiny.bart import CONFIGS as BARTS
from tiny.bart import write_bart
from tiny.checkpoint import write
from tiny.decoders import DECODERS
from tiny.llamas import DYNAMIC
from tiny.t5 import write_t5
from torch import Tensor

from atoll.engine.request import Request, SamplingOptions
from atoll.runner.decode_graphs import _are_other
from atoll_kernels.cpu import native
from atoll_kernels.cpu.graph_cache import CheckedGraphs

VARIANTS = {v.name: v for v in (*DECODERS, DYNAMIC)}
SIZES = (3, 1)
pytestmark = pytest.mark.skipif(native.library() is None, reason="there is no C++ compiler")


def answers(model: Any, kind: str, is_taped: bool) -> tuple[list[list[int]], list[Tensor], int]:
    """Ids of some requests, the logits of every step, and how many sizes were replayed."""
    core = make_core(model, num_blocks=128)
    runner, logits = core._runner, []
    if is_taped:
        runner.buffer_decoding(8)
    forward = runner.forward

    def kept(step: Any) -> Any:
        out = forward(step)
        logits.append(out.logits.clone())
        return out

    runner.forward = kept  # type: ignore[method-assign]
    sinks = []
    for count in SIZES:
        for index in range(count):
            ids = tuple(range(5 + index, 9 + 2 * index))
            is_encoded = "t5" in kind or kind in BARTS
            prompt, encoder = ((0,), ids) if is_encoded else (ids, ())
            sinks.append(Collector())
            options = SamplingOptions(max_new_tokens=12)
            name = f"{count}-{index}"
            core.add(Request(name, prompt, options, sinks[-1], encoder_ids=encoder))
        run(core)
    steps = runner.decode_graphs
    return [sink.ids for sink in sinks], logits, 0 if steps is None else steps.num_captured


@pytest.mark.parametrize("kind", [*(v.name for v in (*DECODERS, DYNAMIC)), "t5", "flan-t5", *BARTS])
def test_every_architecture_is_replayed(kind: str, tmp_path: Path) -> None:
    if kind in BARTS:
        write_bart(kind, tmp_path)
    else:
        write_t5(kind, tmp_path) if "t5" in kind else write(VARIANTS[kind], tmp_path)
    model: Any = load(tmp_path)
    plain_ids, plain, _ = answers(model, kind, False)
    ids, taped, num_replayed = answers(model, kind, True)
    # Experts are counted on the host.
    is_read = any(getattr(m, "reads_on_host", False) for m in model.modules())
    assert num_replayed == (0 if is_read else len(SIZES))
    assert ids == plain_ids
    for found, expected in zip(taped, plain, strict=True):
        assert float((found - expected).abs().max()) <= 2e-5 * max(1.0, float(expected.std()))


def test_a_tape_that_differs_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """A step that decides by a value on the host, which a graph cannot see.

    What the replay of the check wrote to the cache is written anew, too.
    """
    lengths, cache = torch.ones(2, dtype=torch.int32), torch.zeros(2)

    def step(size: int) -> tuple[Tensor, Tensor]:
        longest = max(lengths.tolist())
        cache.copy_(lengths * longest)
        return cache.clone(), lengths.float()

    steps, found = CheckedGraphs(step, _are_other), []
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        for length in (1, 2, 3, 4):
            lengths.fill_(length)
            found.append(steps.run(2, lengths.numpy())[0].tolist())
            assert cache.tolist() == found[-1]
    assert found == [[1, 1], [4, 4], [9, 9], [16, 16]]
    assert steps.num_checked == 0 and "differs" in caplog.text


def test_the_check_waits_for_other_lengths() -> None:
    lengths, calls = torch.ones(2, dtype=torch.int32), []

    def step(size: int) -> tuple[Tensor, Tensor]:
        calls.append(size)
        return lengths.float(), lengths.float()

    steps = CheckedGraphs(step, _are_other)
    with torch.inference_mode():
        for values in ([5, 0], [5, 0], [5, 0], [5, 6], [4, 7]):
            lengths.copy_(torch.tensor(values))
            assert steps.run(2, lengths.numpy())[0].tolist() == values
            assert steps.num_checked == (values == [4, 7])
        before = len(calls)
        lengths.fill_(9)
        assert steps.run(2, lengths.numpy())[0].tolist() == [9, 9]
    assert len(calls) == before


def test_values_that_are_no_numbers_are_equal() -> None:
    """A poisoned request at the check is no reason to give up."""
    lengths = torch.ones(1, dtype=torch.int32)

    def step(size: int) -> tuple[Tensor, Tensor]:
        return lengths / 0.0 * 0.0, lengths.float()

    steps = CheckedGraphs(step, _are_other)
    with torch.inference_mode():
        for length in (1, 2, 3):
            lengths.fill_(length)
            hidden, _ = steps.run(1, lengths.numpy())
            assert bool(np.isnan(hidden.numpy()).all())
    assert steps.num_checked == 1


def test_what_depends_on_data_runs_plainly(caplog: pytest.LogCaptureFixture) -> None:
    lengths = torch.ones(2, dtype=torch.int32)

    def step(size: int) -> tuple[Tensor, Tensor]:
        return lengths[lengths > 1], lengths.float()

    steps = CheckedGraphs(step, _are_other)
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        for length in (1, 2, 3):
            lengths.fill_(length)
            assert steps.run(2, lengths.numpy())[0].tolist() == [length] * (2 * (length > 1))
    assert "depends on the data" in caplog.text
