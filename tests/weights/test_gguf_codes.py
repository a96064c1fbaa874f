"""Blocks of 4 bits as codes: the same numbers as the library's dequantised ones."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize
from tiny.checkpoint import Variant, write
from tiny.gguf_architectures import CONVERTED
from tiny.gguf_converted import write_converted
from tiny.hybrids import granite4
from tiny.qwen_nexts import TWO_LAYERS, qwen3_5_text

from atoll.weights.checkpoint import gguf_reader
from atoll.weights.gguf.codes import GROUP, packed_blocks, read_codes
from atoll.weights.gguf.convert import prepare
from atoll.weights.gguf.eight_bits import packed_bytes, read_bytes
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.parts import Part
from atoll.weights.quantized_windows import Shape

SIZES = {"Q4_0": 18, "Q4_1": 20, "Q4_K": 144}
BYTES = {"Q8_0": (34, 0, 32), "Q5_0": (22, 0, 32), "Q4_0": (18, 0, 32), "Q6_K": (210, 208, 16)}


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


@pytest.mark.parametrize("kind", BYTES)
def test_bytes_are_the_dequantised_numbers(kind: str) -> None:
    size, place, group = BYTES[kind]
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (6, 3, size), dtype=np.uint8)
    scales = random.normal(0, 0.02, (6, 3, 1)).astype(np.float16)
    scales[0, 0, 0] = 0
    blocks[..., place : place + 2] = scales.view(np.uint8)
    rows = blocks.reshape(6, -1)
    codes, steps = read_bytes(kind, rows)
    found = np.repeat(steps, group, 1) * codes
    np.testing.assert_array_equal(found, dequantize(rows, gguf.GGMLQuantizationType[kind]))


@pytest.mark.parametrize(
    ("name", "variant", "part"),
    [
        ("qwen3.5", Variant("", lambda: qwen3_5_text(**TWO_LAYERS, linear_value_head_dim=32)), part)
        for part in ("linear_attn.out_proj", "linear_attn.in_proj_qkv", "linear_attn.in_proj_z")
    ]
    + [("granite-4-h-dense", Variant("", granite4), "shared_mlp.input_linear")],
)
def test_blocks_that_are_moved_or_joined_stay(
    name: str, variant: Variant, part: str, tmp_path: Path
) -> None:
    """Heads in another order, also as inputs; a matrix that the file has in two."""
    write(variant, tmp_path / "hub")
    write_converted(tmp_path / "hub", tmp_path / "x.gguf", CONVERTED[name], "Q4_0")
    (tmp_path / "folder").mkdir()
    prepare(tmp_path / "x.gguf", tmp_path / "folder")
    reader = gguf_reader(tmp_path / "folder")
    expected = reader.tensor(f"model.layers.0.{part}.weight")
    group = LayerTensors(reader, "model.", f"layers.0.{part}", None, part)
    shape = Shape(Part.of(expected.shape[0]), Part.of(expected.shape[1]))
    found = packed_blocks(group, shape, torch.device("cpu"))
    assert found is not None
    steps, zeros = found.scales[found.groups], found.zeros[found.groups]
    torch.testing.assert_close((steps * (found.codes - zeros)).t(), expected)
    # As it is beside a part of 8 bits.
    wide = packed_bytes(group, shape, torch.device("cpu"))
    assert wide is not None and wide.codes.dtype == torch.int8
    torch.testing.assert_close(wide.codes * wide.scales.repeat_interleave(GROUP, 1), expected)
