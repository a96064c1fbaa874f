"""Weights of eight bits in floating point, with a scale for each block or for the whole matrix.

DeepSeek V3's and Qwen3's FP8 files have e4m3 numbers and, beside each weight, ``weight_scale_inv``
with a scale for each block of 128 x 128; Ministral 3's have one scale. Weights are expanded when
they are loaded: activations are not quantised, so that ``activation_scale`` has no use here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.weights.layer_tensors import LayerTensors, Mismatch
from atoll.weights.quantization import Quantization
from atoll.weights.quantized_windows import Window

SCALE = "weight_scale_inv"
# Numbers that are expanded at once, in float32.
_AT_ONCE = 1 << 24


def read_fp8(
    group: LayerTensors, window: Window, quantization: Quantization, dtype: torch.dtype,
    device: torch.device,
) -> Tensor:  # fmt: skip
    """The window's weight, (outputs, inputs) of ``dtype``.

    Raises:
        WeightError: a tensor is missing, or of another shape or kind than the config says.
    """
    part, (num_outputs, num_inputs) = window.part, window.shape
    group.check_shape(part, "weight", window.shape)
    codes, scales = group.raw(part, "weight"), group.raw(part, SCALE)
    height, width = quantization.block or window.shape
    blocks = (-(-num_outputs // height), -(-num_inputs // width))
    is_whole = quantization.block is None and scales.numel() == 1
    for suffix, found, is_right in (
        ("weight", codes, codes.dtype == torch.float8_e4m3fn),
        (SCALE, scales, scales.is_floating_point() and (is_whole or scales.shape == blocks)),
    ):
        if not is_right:
            wanted = "float8_e4m3fn" if suffix == "weight" else f"floating point, shape {blocks}"
            raise Mismatch(
                f"{group.reader.folder}: tensor {group.name(part, suffix)!r} needs {wanted}, not "
                f"{found.dtype}, shape {tuple(found.shape)}: {quantization.source} says fp8, "
                f"weight_block_size {quantization.block}"
            )
    held = codes[window.outputs, window.inputs].to(device)
    rows = torch.arange(window.outputs.start, window.outputs.stop) // height
    columns = torch.arange(window.inputs.start, window.inputs.stop) // width
    wide = scales.float().view(blocks)[:, columns].to(device)
    out = torch.empty(held.shape, dtype=dtype, device=device)
    step = max(1, _AT_ONCE // max(held.shape[1], 1))
    for start in range(0, len(out), step):
        some = slice(start, start + step)
        out[some] = held[some].float() * wide[rows[some].to(device)]
    return out
