"""Blocks of 4 bits as codes: the same numbers as the library's dequantised ones."""

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from atoll.weights.gguf.codes import GROUP, read_codes

SIZES = {"Q4_0": 18, "Q4_1": 20, "Q4_K": 144}


@pytest.mark.parametrize("kind", SIZES)
def test_codes_are_the_dequantised_numbers(kind: str) -> None:
    """Also of groups whose scale is zero or negative."""
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (6, 3, SIZES[kind]), dtype=np.uint8)
    halves = 1 if kind == "Q4_0" else 2
    scales = random.normal(0, 0.02, (6, 3, halves)).astype(np.float16)
    scales[0, 0, 0] = 0
    blocks[..., : 2 * halves] = scales.view(np.uint8)
    rows = blocks.reshape(6, -1)
    expected = dequantize(rows, gguf.GGMLQuantizationType[kind])
    codes, zeros, steps = read_codes(kind, rows)
    assert codes.max() <= 15
    found = np.repeat(steps, GROUP, 1) * (codes - np.repeat(zeros, GROUP, 1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
