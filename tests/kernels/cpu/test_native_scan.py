"""Mamba's native scans against their definitions in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from native import LEVELS, native, native_level
from recurrent_cases import MIXED, STEP, Row, past_of, state_of
from scan_cases import Scan, channels_of, close, scan_of
from torch import Tensor

from atoll_kernels import Past, reference
from atoll_kernels.cpu import graph, scan

# Heads and groups; their width and the size of a state: of Falcon-H1 7B, Granite 4; odd ones.
SHAPES = [((1, 1), (128, 256)), ((2, 1), (64, 128)), ((6, 3), (5, 21))]


@pytest.fixture(params=LEVELS, ids=lambda level: level.name, autouse=True)
def _level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    native_level(request.param, monkeypatch)
    torch.manual_seed(0)
    yield


def check(x: Scan, state: Tensor | None, past: Past) -> None:
    wide = None if state is None else state.double()
    expected = reference.selective_scan2(*x.to(torch.float64), wide, past)
    close(scan.selective_scan2(*x, state, past), expected, x.x.dtype)
    if state is not None and wide is not None:
        close(state, wide, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [MIXED, STEP], ids=["mixed", "step"])
def test_selective_scan2(rows: tuple[Row, ...], dtype: torch.dtype) -> None:
    past = past_of(rows)
    for heads, dims in SHAPES:
        x = scan_of(int(past.cu_seqlens[-1]), heads, dims, dtype)
        check(x, state_of(rows, (heads[0], *dims), torch.float32), past)
        check(x._replace(D=None), None, Past(past.cu_seqlens))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [MIXED, STEP], ids=["mixed", "step"])
def test_selective_scan(rows: tuple[Row, ...], dtype: torch.dtype) -> None:
    """Mamba-1: states of 16 as published, and others; channels of more than a block."""
    past = past_of(rows)
    for channels, size in ((70, 16), (129, 16), (5, 21)):
        x = channels_of(int(past.cu_seqlens[-1]), channels, size, dtype)
        state = state_of(rows, (channels, size), torch.float32)
        for kept, place in ((state, past), (None, Past(past.cu_seqlens))):
            wide = None if kept is None else kept.double()
            expected = reference.selective_scan(*x.to(torch.float64), wide, place)
            close(scan.selective_scan(*x, kept, place), expected, dtype)
            if kept is not None and wide is not None:
                close(kept, wide, torch.float32)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
def test_states_of_16_bits(stored: torch.dtype) -> None:
    """Read and rounded once per batch; computed as if they were float32."""
    for rows in (MIXED, STEP):
        past = past_of(rows)
        tokens = int(past.cu_seqlens[-1])
        two = scan_of(tokens, (6, 3), (5, 21), torch.float32)
        for channels, size in ((70, 16), (5, 21)):
            one = channels_of(tokens, channels, size, torch.float32)
            for run, x, shape in (
                (scan.selective_scan2, two, (6, 5, 21)),
                (scan.selective_scan, one, (channels, size)),
            ):
                state = state_of(rows, shape, stored)
                wide = state.float()
                expected, found = run(*x, wide, past), run(*x, state, past)
                assert expected is not None and found is not None
                close(found, expected.double(), torch.float32)
                close(state, wide.double(), stored)


def test_it_may_forget_nothing_or_all() -> None:
    rows = (Row(200, 3, 0), Row(1, 5, 2), Row(65, 0, 1))
    x = scan_of(266, (1, 1), (32, 32), torch.float32)
    steps = torch.tensor([0.0, 1e-6, 1.0, 1e4]).repeat(67)[:266].unsqueeze(1)
    check(x._replace(dt=steps), state_of(rows, (1, 32, 32), torch.float32), past_of(rows))


def test_chunks_may_be_cut_anywhere() -> None:
    x = scan_of(150, (2, 1), (24, 40), torch.float32)
    state, parts = torch.zeros(2, 1, 2, 24, 40)
    once = scan.selective_scan2(*x, state, past_of([Row(150, 0, 0)]))
    assert once is not None
    for first, last in ((0, 1), (1, 7), (7, 40), (40, 150)):
        past = past_of([Row(last - first, first, 0)])
        found = scan.selective_scan2(*x.part(first, last), parts, past)
        close(found, once[first:last].double(), torch.float32)
    close(parts, state.double(), torch.float32)


def test_nan_stays_in_its_sequence() -> None:
    rows = (Row(1, 7, 0), Row(70, 4, 1), Row(1, 3, 3))
    x, clean = scan_of(72, (2, 1), (16, 16), torch.float32), torch.randn(4, 2, 16, 16)
    state, fouled = clean.clone(), x._replace(x=x.x.clone())
    fouled.x[30, 1, 3] = math.nan
    expected = scan.selective_scan2(*x, clean, past_of(rows))
    found = scan.selective_scan2(*fouled, state, past_of(rows))
    assert found is not None and expected is not None
    is_lost = torch.zeros_like(found, dtype=torch.bool)
    is_lost[30:71, 1, 3] = True
    assert torch.equal(found.isnan(), is_lost)
    assert torch.equal(found[~is_lost], expected[~is_lost])


def test_recorded_and_by_threads() -> None:
    """A replayed step reads slots, lengths and states anew; several threads give the same."""
    past, rows = past_of(STEP), len(STEP)
    x, state = scan_of(rows, (16, 1), (64, 128), torch.float32), torch.randn(9, 16, 64, 128)

    def run() -> Tensor:
        found = scan.selective_scan2(*x, state, past)
        assert found is not None
        return found

    with torch.inference_mode():
        found, recorded = graph.record(run, native(LEVELS[0]).replay)
        x.x.copy_(torch.randn(x.x.shape))
        assert past.slots is not None and past.seq_lens is not None
        past.slots.copy_(torch.tensor([2, -1, 0, 5, 1, 7]))
        past.seq_lens.copy_(torch.tensor([4, 0, 1, 9, 9, 2]))
        before = state.clone()
        recorded.replay()
        after, once = state.clone(), found.clone()
        state.copy_(before)
        assert torch.equal(run(), once) and torch.equal(state, after)


def test_float16_and_what_is_declined() -> None:
    past = past_of((Row(3, 2, 1), Row(1, 0, 2)))
    x, state = scan_of(4, (2, 1), (16, 16), torch.float16), torch.randn(3, 2, 16, 16)
    wide = state.double()
    expected = reference.selective_scan2(*x.to(torch.float64), wide, past)
    close(scan.selective_scan2(*x, state, past), expected, torch.float16)
    assert scan.selective_scan2(*x.to(torch.float64), wide, past) is None
