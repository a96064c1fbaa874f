"""MXFP4 layers: 4-bit floats in blocks of 32 inputs that share a power of two.

Layout (OCP Microscaling Formats 1.0, as gpt-oss' files have it), N output and K input features:

- ``blocks`` (N, K / 32, 16) uint8: two codes in a byte, the earlier input's in the lower half;
- ``scales`` (N, K / 32) uint8: 127 more than the power of two.

W[n, k] = value(code) * 2^(scales[n, k // 32] - 127), value: 0, 0.5, 1, 1.5, 2, 3, 4, 6, and from
code 8 on the same negated. The tensors stay as they are; ``atoll_kernels.pack_mxfp4`` takes them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.weights.layer_tensors import LayerTensors, Mismatch
from atoll.weights.parts import Part
from atoll.weights.quantization import Quantization

# Inputs that share a scale; a rank's part of the inputs is a multiple of it.
BLOCK = 32


def is_mxfp4(group: LayerTensors, quantization: Quantization | None) -> bool:
    """Whether a layer is stored so; some of its tensors may be missing."""
    is_said = quantization is not None and quantization.method == "mxfp4"
    suffixes = ("blocks", "scales") if is_said else ("blocks",)
    return any(group.has_part(part, suffix) for part in group.parts() for suffix in suffixes)


def read_mxfp4(
    group: LayerTensors, outputs: Part, inputs: Part, quantization: Quantization | None
) -> tuple[Tensor, Tensor]:
    """blocks and scales of a layer, or of a rank's part of it; its rows in our order.

    Raises:
        WeightError: a tensor is missing, or of another shape or kind than the config says; or no
            config says that the layer is quantised.
    """
    (part,) = group.parts()
    if quantization is None or quantization.method != "mxfp4":
        said = "nothing" if quantization is None else quantization.method
        raise Mismatch(
            f"{group.reader.folder}: {group.name(part, 'blocks')} is MXFP4; by quantization_config "
            f"of config.json it is quantised with {said}"
        )
    count = inputs.total // BLOCK
    blocks = _bytes(group, part, "blocks", (outputs.total, count, BLOCK // 2))
    scales = _bytes(group, part, "scales", (outputs.total, count))
    rows = group.rows() if outputs.is_whole else outputs.rows(group.rows())
    held = inputs.span
    columns = slice(held.start // BLOCK, held.stop // BLOCK)
    filled = inputs.num_filled // BLOCK
    blocks, scales = _taken(blocks[:, columns], rows), _taken(scales[:, columns], rows)
    if filled:
        blocks, scales = F.pad(blocks, (0, 0, 0, filled)), F.pad(scales, (0, filled))
    return blocks, scales


def _bytes(group: LayerTensors, part: str, suffix: str, shape: tuple[int, ...]) -> Tensor:
    group.check_shape(part, suffix, shape)
    found = group.raw(part, suffix)
    if found.dtype != torch.uint8:
        dtype = str(found.dtype).removeprefix("torch.")
        raise Mismatch(
            f"{group.reader.folder}: tensor {group.name(part, suffix)!r} is {dtype}; MXFP4 needs "
            "uint8"
        )
    return found


def _taken(stored: Tensor, rows: Tensor | None) -> Tensor:
    """Rows of a tensor, copied; zeros where there is -1."""
    if rows is None:
        return stored.contiguous()
    found = stored[rows.clamp_min(0)]
    found[rows < 0] = 0
    return found
