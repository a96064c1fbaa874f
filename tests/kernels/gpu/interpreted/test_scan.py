"""Mamba's scans: steps, chunks of prompts, and both in one batch."""

import pytest
import torch
from interpreted import DEVICE, DTYPES, assert_close
from recurrent_cases import STEP, Row, past_of, state_of
from scan_cases import channels_of, scan_of

from atoll_kernels import Past, reference
from atoll_kernels.gpu import scan

# Chunks of the interpreter are 16 tokens: one token, a chunk's end, padding, several chunks.
MIXED = (Row(1, 7, 3), Row(16, 0, 0), Row(1), Row(37, 64, 8), Row(20, 0, 4))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [MIXED, STEP], ids=["mixed", "step"])
def test_selective_scan2(rows: tuple[Row, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    past = past_of(rows, DEVICE)
    x = scan_of(int(past.cu_seqlens[-1]), (4, 2), (20, 24), dtype).to(DEVICE)
    state = state_of(rows, (4, 20, 24), torch.float32).to(DEVICE)
    wide = state.double()
    expected = reference.selective_scan2(*x.to(torch.float64), wide, past)
    found = scan.selective_scan2(*x, state, past)
    assert found is not None and found.dtype == dtype
    assert_close(found, expected)
    assert torch.equal(state.isnan(), wide.isnan())
    assert_close(state[wide.isfinite()], wide[wide.isfinite()])
    alone = Past(past.cu_seqlens)
    expected = reference.selective_scan2(*x._replace(D=None).to(torch.float64), None, alone)
    found = scan.selective_scan2(*x._replace(D=None), None, alone)
    assert found is not None
    assert_close(found, expected)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
def test_states_of_16_bits(stored: torch.dtype) -> None:
    past = past_of(MIXED, DEVICE)
    x = scan_of(int(past.cu_seqlens[-1]), (2, 1), (20, 24), torch.float32).to(DEVICE)
    state = state_of(MIXED, (2, 20, 24), stored).to(DEVICE)
    wide = state.double()
    expected = reference.selective_scan2(*x.to(torch.float64), wide, past)
    found = scan.selective_scan2(*x, state, past)
    assert found is not None
    assert_close(found, expected)
    assert torch.equal(state.isnan(), wide.isnan())
    assert_close(state[wide.isfinite()], wide[wide.isfinite()])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stored", [torch.float32, torch.float16], ids=str)
def test_selective_scan(stored: torch.dtype, dtype: torch.dtype) -> None:
    """Mamba-1: states of 16 as published, and others; channels of more than a block."""
    rows = (Row(1, 7, 3), Row(5, 0, 0), Row(1), Row(7, 64, 8))
    past = past_of(rows, DEVICE)
    for channels, size in ((20, 16), (3, 21)):
        x = channels_of(int(past.cu_seqlens[-1]), channels, size, dtype).to(DEVICE)
        for kept in (state_of(rows, (channels, size), stored).to(DEVICE), None):
            wide = None if kept is None else kept.double()
            place = past if kept is not None else Past(past.cu_seqlens)
            expected = reference.selective_scan(*x.to(torch.float64), wide, place)
            found = scan.selective_scan(*x, kept, place)
            assert found is not None and found.dtype == dtype
            assert_close(found, expected)
            if kept is not None and wide is not None:
                assert torch.equal(kept.isnan(), wide.isnan())
                assert_close(kept[wide.isfinite()], wide[wide.isfinite()])


def test_sizes_of_states() -> None:
    """Too wide for registers in chunks, and for any kernel."""
    rows = (Row(20, 3, 1), Row(1, 0, 2))
    for size, is_taken in ((130, True), (257, False)):
        x = scan_of(21, (1, 1), (8, size), torch.float32).to(DEVICE)
        state = state_of(rows, (1, 8, size), torch.float32).to(DEVICE)
        wide, past = state.double(), past_of(rows, DEVICE)
        found = scan.selective_scan2(*x, state, past)
        assert (found is not None) == is_taken
        if found is not None:
            expected = reference.selective_scan2(*x.to(torch.float64), wide, past)
            assert_close(found, expected)
