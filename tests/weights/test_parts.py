"""A rank's part of a layer is that part of the whole layer, however the file holds it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny.quantize import Packing, pack_layer
from torch import Tensor

from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.parts import Part, Range, take
from atoll.weights.quantization import Quantization
from atoll.weights.quantized_layers import expand, packed_codes
from atoll.weights.quantized_windows import Shape
from atoll.weights.reader import CheckpointReader
from atoll.weights.weight_map import Reorder, Source, Transposed

QUICK = settings(max_examples=50, deadline=None, derandomize=True, database=None)
CPU = torch.device("cpu")
ROWS, NUM_INPUTS = (64, 32, 32), 160
ORDER = torch.randperm(sum(ROWS), generator=torch.Generator().manual_seed(2))
# Ranges within words, across parts, and a vocabulary's end that is filled up.
OUTPUTS = (
    Part.whole(128), Part(128, (Range(0, 16), Range(64, 72), Range(96, 104))),
    Part(128, (Range(48, 64, 8), Range(88, 96, 16), Range(120, 128, 8))),
    Part(128, (Range(33, 97),)), Part(128, (Range(128, 128, 4),)),
)  # fmt: skip
INPUTS = (
    Part.whole(NUM_INPUTS), Part(NUM_INPUTS, (Range(80, 160),)), Part(NUM_INPUTS, (Range(40, 52),)),
    Part(NUM_INPUTS, (Range(144, 160, 16),)), Part(NUM_INPUTS, (Range(160, 160, 32),)),
)  # fmt: skip
PACKINGS = (
    Packing(), Packing(act_order=False), Packing(bits=3, group_size=32), Packing(bits=8),
    Packing(bits=2, group_size=-1, act_order=False), Packing("awq"),
)  # fmt: skip


@QUICK
@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    wanted=st.lists(st.integers(-1, 23), max_size=12),
)
def test_rows_are_taken_in_the_order_wanted(sizes: list[int], wanted: list[int]) -> None:
    tensors = [torch.randn(size, 3) for size in sizes]
    together = torch.cat(tensors)
    rows = torch.tensor([row for row in wanted if row < len(together)], dtype=torch.int64)
    padded = torch.cat([together, torch.zeros(1, 3)])
    assert torch.equal(take(tensors, rows), padded[rows])


@pytest.fixture(scope="module", params=PACKINGS, ids=str)
def quantised(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder, packing = tmp_path_factory.mktemp("layer"), request.param
    tensors = {}
    for seed, (name, rows) in enumerate(zip("qkv", ROWS, strict=True)):
        weight = torch.randn(rows, NUM_INPUTS, generator=torch.Generator().manual_seed(seed))
        # One act-order for all, so that codes can stay as they are.
        tensors.update(pack_layer(name, weight, packing, 0)[0])
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    found = Quantization.read(folder, {"quantization_config": packing.config()})
    return found, folder


def _layer(folder: Path, source: Source) -> LayerTensors:
    return LayerTensors(CheckpointReader(folder), "", source, None, "qkv")


def _held(whole: Tensor, outputs: Part, inputs: Part) -> Tensor:
    rows = outputs.rows()
    held = torch.where(rows[:, None] >= 0, whole[rows], 0.0)[:, inputs.span]
    return torch.cat([held, torch.zeros(len(held), inputs.num_filled)], dim=1)


@pytest.mark.parametrize("source", [("q", "k", "v"), Reorder(("q", "k", "v"), lambda _: ORDER)])
def test_quantised_parts(quantised: tuple[Any, Path], source: Source) -> None:
    quantization, folder = quantised
    layer = _layer(folder, source)
    shape = Shape(Part.whole(128), Part.whole(NUM_INPUTS), ROWS)
    whole = expand(layer, shape, quantization, torch.float32, CPU)
    for outputs in OUTPUTS:
        for inputs in INPUTS:
            part, expected = Shape(outputs, inputs, ROWS), _held(whole, outputs, inputs)
            assert torch.equal(expand(layer, part, quantization, torch.float32, CPU), expected)
            found = packed_codes(layer, part, quantization, CPU)
            assert (found is None) == (quantization.bits != 4)
            if found is not None:
                codes, zeros, scales, groups = found
                dense = scales.float()[groups] * (codes - zeros[groups]).float()
                assert torch.equal(dense.t(), expected)
                if quantization.act_order is not True:
                    assert len(set(groups.bincount().tolist())) == 1, "kernels take no others"


@QUICK
@given(start=st.integers(0, 127), count=st.integers(1, 128), column=st.integers(0, 159))
def test_dense_parts(start: int, count: int, column: int) -> None:
    """Of one matrix, of several, in another order and turned."""
    whole = torch.randn(128, NUM_INPUTS, generator=torch.Generator().manual_seed(0))
    outputs = Part(128, (Range(start, min(start + count, 128), count % 3),))
    inputs = Part(NUM_INPUTS, (Range(column, NUM_INPUTS, column % 3),))
    stored: dict[str, Tensor] = {"x.weight": whole, "turned.weight": whole.t()}
    stored |= {f"{n}.weight": t for n, t in zip("qkv", whole.split(ROWS), strict=True)}
    reader: Any = _Tensors(stored)
    sources: tuple[Source, ...] = ("x", ("q", "k", "v"), Transposed("turned"))
    for source in sources:
        layer = LayerTensors(reader, "", source, None, "x")
        found = layer.get("weight", (outputs, inputs), ROWS)
        assert torch.equal(found, _held(whole, outputs, inputs)) and found.is_contiguous()
    layer = LayerTensors(reader, "", Reorder("x", lambda _: ORDER), None, "x")
    found = layer.get("weight", (outputs, inputs))
    assert torch.equal(found, _held(whole[ORDER], outputs, inputs))


class _Tensors(dict[str, Tensor]):
    """Stands in for a reader."""

    folder, lost = Path("folder"), dict[str, str]()

    def tensor(self, name: str, index: int | None = None) -> Tensor:
        return self[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self[name].shape)
