"""Recurrent layers: steps, chunks of prompts, and both in one batch."""

import pytest
import torch
from interpreted import DEVICE, DTYPES, assert_close
from recurrent_cases import (
    DECAYS,
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
from atoll_kernels.gpu import recurrent

# Chunks of the interpreter are 16 tokens: one token, a chunk's end, padding, several chunks.
MIXED = (Row(1, 7, 3), Row(16, 0, 0), Row(1), Row(37, 64, 8), Row(5, 2, 1), Row(20, 0, 4))
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_batch = pytest.mark.parametrize("rows", [MIXED, STEP], ids=["mixed", "step"])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def check_states(found: Tensor, expected: Tensor) -> None:
    """States are numbers where a sequence has left one."""
    assert torch.equal(found.isnan(), expected.isnan())
    numbers = expected.isfinite()
    assert_close(found[numbers], expected[numbers])


def check_delta(x: Delta, state: Tensor | None, past: Past) -> None:
    wide = None if state is None else state.double()
    expected = reference.gated_delta(*(t.double() for t in x), wide, past)
    found = recurrent.gated_delta(*x, state, past)
    assert found is not None and found.dtype == x.v.dtype
    assert_close(found, expected)
    if state is not None and wide is not None:
        check_states(state, wide)


def on_device(x: Delta) -> Delta:
    return Delta(*(t.to(DEVICE) for t in x))


@each_dtype
@each_batch
def test_gated_delta(rows: tuple[Row, ...], dtype: torch.dtype) -> None:
    past = past_of(rows, DEVICE)
    x = on_device(delta_of(int(past.cu_seqlens[-1]), (1, 2), (16, 24), dtype))
    check_delta(x, state_of(rows, (2, 16, 24), torch.float32).to(DEVICE), past)
    check_delta(x, None, Past(past.cu_seqlens))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
def test_states_of_16_bits(stored: torch.dtype) -> None:
    past = past_of(MIXED, DEVICE)
    x = on_device(delta_of(int(past.cu_seqlens[-1]), (1, 2), (16, 24), torch.float32))
    check_delta(x, state_of(MIXED, (2, 16, 24), stored).to(DEVICE), past)


@pytest.mark.parametrize("decays", DECAYS)
def test_decays(decays: str) -> None:
    rows = (Row(35, 3, 0), Row(1, 5, 2), Row(17, 0, 1))
    x = on_device(delta_of(53, (1, 1), (12, 8), torch.float32, decays))
    state = state_of(rows, (1, 12, 8), torch.float32).to(DEVICE)
    check_delta(x, state.clone(), past_of(rows, DEVICE))
    check_delta(repeated_keys(x), state, past_of(rows, DEVICE))


@pytest.mark.parametrize(
    ("key_dim", "dtype"), [(72, torch.bfloat16), (200, torch.float32), (264, torch.float32)]
)
def test_larger_heads(key_dim: int, dtype: torch.dtype) -> None:
    """A state in two parts, token by token, or declined."""
    rows = (Row(20, 1, 0),)
    x = on_device(delta_of(20, (1, 1), (key_dim, 8), dtype))
    state = state_of(rows, (1, key_dim, 8), torch.float32).to(DEVICE)
    if key_dim <= 256:
        check_delta(x, state, past_of(rows, DEVICE))
    else:
        assert recurrent.gated_delta(*x, state, past_of(rows, DEVICE)) is None


@each_dtype
@each_batch
@pytest.mark.parametrize("width", [2, 4])
def test_causal_conv(width: int, rows: tuple[Row, ...], dtype: torch.dtype) -> None:
    past = past_of(rows, DEVICE)
    wide = torch.randn(int(past.cu_seqlens[-1]), 15).to(dtype).to(DEVICE)
    weight, bias = torch.randn(10, width), torch.randn(10)
    weight, bias = weight.to(dtype).to(DEVICE), bias.to(dtype).to(DEVICE)
    state = state_of(rows, (10, width - 1), dtype).to(DEVICE)
    for given, kept, place, activation in (
        (bias, state, past, "silu"), (None, None, Past(past.cu_seqlens), None),
    ):  # fmt: skip
        doubles = None if kept is None else kept.double()
        expected = reference.causal_conv(
            wide[:, :10].double(), weight.double(), None if given is None else given.double(),
            doubles, place, activation,
        )  # fmt: skip
        found = recurrent.causal_conv(wide[:, :10], weight, given, kept, place, activation)
        assert found is not None and found.dtype == dtype
        assert_close(found, expected)
        if kept is not None and doubles is not None:
            check_states(kept, doubles)
