"""Native kernels of recurrent layers against their definition in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from native import LEVELS, native, native_level
from recurrent_cases import (
    DECAYS,
    MIXED,
    STEP,
    Delta,
    Row,
    delta_of,
    past_of,
    repeated_keys,
    state_of,
)
from torch import Tensor

from atoll_kernels import Past, reference
from atoll_kernels.cpu import graph, recurrent

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
DTYPES = (torch.float32, torch.bfloat16)
# Of Qwen3-Next but for the number of heads; no whole vectors; less than a vector.
SHAPES = [((1, 2), (128, 128)), ((2, 2), (5, 51)), ((1, 3), (16, 2))]


@pytest.fixture(params=LEVELS, ids=lambda level: level.name, autouse=True)
def _level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    native_level(request.param, monkeypatch)
    torch.manual_seed(0)
    yield


def close(found: Tensor | None, expected: Tensor, dtype: torch.dtype) -> None:
    assert found is not None and found.dtype == dtype and found.is_contiguous()
    assert torch.equal(found.isnan(), expected.isnan())
    error = (found.double() - expected).nan_to_num().abs().max()
    assert error <= TOLERANCE[dtype] * max(1.0, float(expected.nan_to_num().abs().max()))


def check_delta(x: Delta, state: Tensor | None, past: Past) -> None:
    wide = None if state is None else state.double()
    expected = reference.gated_delta(*(t.double() for t in x), wide, past)
    close(recurrent.gated_delta(*x, state, past), expected, x.v.dtype)
    if state is not None and wide is not None:
        close(state, wide, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [MIXED, STEP], ids=["mixed", "step"])
@pytest.mark.parametrize(("heads", "dims"), SHAPES, ids=str)
def test_gated_delta(
    heads: tuple[int, int], dims: tuple[int, int], rows: tuple[Row, ...], dtype: torch.dtype
) -> None:
    past = past_of(rows)
    x = delta_of(int(past.cu_seqlens[-1]), heads, dims, dtype)
    check_delta(x, state_of(rows, (heads[1], *dims), torch.float32), past)
    check_delta(x, None, Past(past.cu_seqlens))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
def test_states_of_16_bits(stored: torch.dtype) -> None:
    """Read and rounded once per batch; computed as if they were float32."""
    for rows in (MIXED, STEP):
        for dims in ((128, 128), (5, 51)):
            past = past_of(rows)
            x = delta_of(int(past.cu_seqlens[-1]), (1, 2), dims, torch.float32)
            state = state_of(rows, (2, *dims), stored)
            wide = state.float()
            expected = recurrent.gated_delta(*x, wide, past)
            assert expected is not None
            close(recurrent.gated_delta(*x, state, past), expected.double(), torch.float32)
            close(state, wide.double(), stored)
    assert recurrent.gated_delta(*x, state.double(), past) is None


@pytest.mark.parametrize("decays", DECAYS)
def test_decays(decays: str) -> None:
    rows = (Row(200, 3, 0), Row(1, 5, 2), Row(65, 0, 1))
    x = delta_of(266, (1, 1), (32, 32), torch.float32, decays)
    check_delta(x, state_of(rows, (1, 32, 32), torch.float32), past_of(rows))
    check_delta(repeated_keys(x), state_of(rows, (1, 32, 32), torch.float32), past_of(rows))


def test_float16_and_what_is_declined() -> None:
    rows = (Row(3, 2, 1), Row(1, 0, 2))
    x, state = (
        delta_of(4, (1, 1), (16, 16), torch.float16),
        state_of(rows, (1, 16, 16), torch.float32),
    )
    wide, past = state.double(), past_of(rows)
    expected = reference.gated_delta(*(t.double() for t in x), wide, past)
    found = recurrent.gated_delta(*x, state, past)
    assert found is not None and found.dtype == torch.float16
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)
    assert recurrent.gated_delta(*(t.double() for t in x), wide, past) is None
    inputs, weight = torch.randn(4, 8), torch.randn(8, 4)
    assert recurrent.causal_conv(inputs.half(), weight.half(), None, None, past) is None
    assert recurrent.causal_conv(inputs, torch.randn(8, 9), None, None, past) is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [MIXED, STEP], ids=["mixed", "step"])
@pytest.mark.parametrize("width", [2, 3, 4])
def test_causal_conv(width: int, rows: tuple[Row, ...], dtype: torch.dtype) -> None:
    past = past_of(rows)
    for channels in (300, 7):
        wide = torch.randn(int(past.cu_seqlens[-1]), channels + 5).to(dtype)
        weight, bias = torch.randn(channels, width).to(dtype), torch.randn(channels).to(dtype)
        x, state = wide[:, :channels], state_of(rows, (channels, width - 1), dtype)
        for given, activation in ((bias, "silu"), (None, None)):
            kept, doubles = state.clone(), state.double()
            expected = reference.causal_conv(
                x.double(), weight.double(), given if given is None else given.double(), doubles,
                past, activation,
            )  # fmt: skip
            found = recurrent.causal_conv(x, weight, given, kept, past, activation)
            close(found, expected, dtype)
            assert torch.equal(kept.nan_to_num(), doubles.to(dtype).nan_to_num())
        close(
            recurrent.causal_conv(x, weight, None, None, Past(past.cu_seqlens)),
            reference.causal_conv(x.double(), weight.double(), None, None, Past(past.cu_seqlens)),
            dtype,
        )


@pytest.mark.parametrize("cuts", [(1,), (63, 64, 65), (7, 130), (128,)], ids=str)
def test_chunks_may_be_cut_anywhere(cuts: tuple[int, ...]) -> None:
    x = delta_of(150, (1, 2), (24, 40), torch.float32, "mixed")
    inputs, weight = torch.randn(150, 20), torch.randn(20, 4)
    delta, conv = torch.zeros(1, 2, 24, 40), torch.zeros(1, 20, 3)
    whole = past_of([Row(150, 0, 0)])
    once = recurrent.gated_delta(*x, delta, whole)
    once_conv = recurrent.causal_conv(inputs, weight, None, conv, whole, "silu")
    assert once is not None and once_conv is not None
    parts, parts_conv = torch.zeros_like(delta), torch.zeros_like(conv)
    for first, last in zip((0, *cuts), (*cuts, 150), strict=True):
        past = past_of([Row(last - first, first, 0)])
        found = recurrent.gated_delta(*x.part(first, last), parts, past)
        close(found, once[first:last].double(), torch.float32)
        out = recurrent.causal_conv(inputs[first:last], weight, None, parts_conv, past, "silu")
        assert out is not None and torch.equal(out, once_conv[first:last])
    close(parts, delta.double(), torch.float32)
    assert torch.equal(parts_conv, conv)


def test_nan_stays_in_its_sequence() -> None:
    rows = (Row(1, 7, 0), Row(70, 4, 1), Row(66, 0, 2), Row(1, 3, 3))
    past = past_of(rows)
    x, clean = delta_of(138, (1, 2), (16, 16), torch.float32), torch.randn(4, 2, 16, 16)
    state, fouled = clean.clone(), x._replace(v=x.v.clone())
    expected = recurrent.gated_delta(*x, clean, past)
    fouled.v[30, 1, 3], fouled.v[100] = math.nan, math.inf
    found = recurrent.gated_delta(*fouled, state, past)
    assert found is not None and expected is not None
    assert bool(found[30:71, 1, 3].isnan().all()) and not bool(found[100:137].isfinite().any())
    for rows_of in (slice(0, 30), slice(71, 100), slice(137, 138)):
        assert torch.equal(found[rows_of], expected[rows_of])
    assert torch.equal(found[30:71, 0], expected[30:71, 0])
    assert torch.equal(state[[0, 3]], clean[[0, 3]])


def test_recorded_and_by_threads(request: pytest.FixtureRequest) -> None:
    """A replayed step reads slots, lengths and states anew; several threads give the same."""
    past, rows = past_of(STEP), len(STEP)
    x, inputs, weight = (
        delta_of(rows, (4, 8), (128, 128), torch.float32),
        torch.randn(rows, 9000),
        torch.randn(9000, 4),
    )
    state, conv = torch.randn(9, 8, 128, 128), torch.randn(9, 9000, 3)

    def run() -> tuple[Tensor, Tensor]:
        found = recurrent.gated_delta(*x, state, past)
        out = recurrent.causal_conv(inputs, weight, None, conv, past, "silu")
        assert found is not None and out is not None
        return found, out

    with torch.inference_mode():
        (found, out), recorded = graph.record(run, native(LEVELS[0]).replay)
        for tensor in (*x[:3], inputs):
            tensor.copy_(torch.randn(tensor.shape))
        assert past.slots is not None and past.seq_lens is not None
        past.slots.copy_(torch.tensor([2, -1, 0, 5, 1, 7]))
        past.seq_lens.copy_(torch.tensor([4, 0, 1, 9, 9, 2]))
        before = state.clone(), conv.clone()
        recorded.replay()
        after, once = (state.clone(), conv.clone()), (found.clone(), out.clone())
        state.copy_(before[0]), conv.copy_(before[1])
        again = run()
        for a, b in zip((*once, *after), (*again, state, conv), strict=True):
            assert torch.equal(a, b)
