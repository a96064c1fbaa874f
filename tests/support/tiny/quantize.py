"""Packs layers as GPTQ, AWQ and FP8 files have them, from the formats' rules alone, bit by bit.

Beside the packed tensors it returns the weight that they stand for, so that a reader can be
compared without its own arithmetic.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiny.checkpoint import Tensors, Variant, write

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

# Where AWQ leaves divisors behind an activation.
ACTIVATIONS = {
    "bloom": {r"(.*\.mlp)\.dense_4h_to_h": r"\1.gelu_impl"},
    **{
        name: {r"(.*\.mlp)\.dense_4h_to_h": r"\1.act"}
        for name in ("falcon-7b", "falcon-40b", "falcon-rw")
    },
    "gpt-neox": {r"(.*\.mlp)\.dense_4h_to_h": r"\1.act"},
    **{name: {r"(.*\.mlp)\.c_proj": r"\1.act"} for name in ("starcoder", "bigcode-multi-head")},
    "mpt": {r"(.*\.ffn)\.down_proj": r"\1.act"},
}


@dataclass(frozen=True)
class Packing:
    """How to quantise: ``method`` gptq, awq or fp8; ``version`` is GPTQ's, 1 or 2.

    group_size: of FP8, outputs and inputs of a block; -1: one scale for a matrix.
    """

    method: str = "gptq"
    bits: int = 4
    group_size: int = 16
    act_order: bool = True
    version: int = 1

    def config(self) -> dict[str, Any]:
        """The quantization_config of a checkpoint."""
        if self.method == "fp8":
            size = None if self.group_size < 0 else [self.group_size, self.group_size]
            return {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": size,
                    "activation_scheme": "dynamic" if size else "static"}  # fmt: skip
        if self.method == "awq":
            return {"quant_method": "awq", "bits": 4, "group_size": self.group_size,
                    "version": "gemm", "zero_point": True}  # fmt: skip
        form = "gptq_v2" if self.version == 2 else "gptq"
        return {"quant_method": "gptq", "bits": self.bits, "group_size": self.group_size,
                "desc_act": self.act_order, "checkpoint_format": form}  # fmt: skip


def is_layer(name: str) -> bool:
    """Whether a module of a decoder is one that is quantised."""
    return bool(re.search(
        r"\.(h|layers|blocks)\.\d+\..*(query_key_value|dense\w*|\w_proj|\w+_proj|c_attn|c_fc|fc\d|"
        r"Wqkv|w\d)$", name))  # fmt: skip


def pack_layer(name: str, weight: Tensor, packing: Packing, seed: int) -> tuple[Tensors, Tensor]:
    """(tensors of the quantised layer, the float32 weight that they stand for).

    weight: (outputs, inputs). Zeros cover the whole range, 0 included.
    """
    if packing.method == "fp8":
        return _pack_fp8(name, weight, packing)
    num_inputs, bits = weight.shape[1], packing.bits
    size = packing.group_size if packing.group_size > 0 else num_inputs
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(num_inputs) // size
    if packing.act_order and packing.method == "gptq":
        groups = groups[torch.randperm(num_inputs, generator=generator)]
    num_groups, top = int(groups.max()) + 1, 2**bits - 1
    scales = torch.empty(num_groups, len(weight))
    zeros = torch.empty(num_groups, len(weight), dtype=torch.int64)
    codes = torch.empty(num_inputs, len(weight), dtype=torch.int64)
    for g in range(num_groups):
        members = groups == g
        low, high = weight[:, members].aminmax(dim=1)
        scale = ((high - low) / top).half().float()
        zero = (-low / scale).round().clamp(0, top)
        scales[g], zeros[g] = scale, zero.long()
        values = (weight[:, members] / scale[:, None]).round() + zero[:, None]
        codes[members] = values.clamp(0, top).long().t()
    dense = (scales[groups] * (codes - zeros[groups]).float()).t()
    tensors = {f"{name}.scales": scales.half()}
    if packing.method == "awq":
        tensors[f"{name}.qweight"] = _pack_awq(codes)
        tensors[f"{name}.qzeros"] = _pack_awq(zeros)
        return tensors, dense
    stored = zeros if packing.version == 2 else (zeros - 1) % (top + 1)
    tensors[f"{name}.qweight"] = _pack_bits(codes.t(), bits).t()
    tensors[f"{name}.qzeros"] = _pack_bits(stored, bits)
    tensors[f"{name}.g_idx"] = groups.int()
    return tensors, dense


def _pack_fp8(name: str, weight: Tensor, packing: Packing) -> tuple[Tensors, Tensor]:
    size = packing.group_size if packing.group_size > 0 else max(weight.shape)
    scales = torch.empty(-(-len(weight) // size), -(-weight.shape[1] // size))
    codes, dense = torch.empty_like(weight).to(torch.float8_e4m3fn), torch.empty_like(weight)
    for i, j in np.ndindex(*scales.shape):
        block = slice(i * size, (i + 1) * size), slice(j * size, (j + 1) * size)
        scales[i, j] = weight[block].abs().max() / 448
        codes[block] = (weight[block] / scales[i, j]).to(torch.float8_e4m3fn)
        dense[block] = codes[block].float() * scales[i, j]
    stored = scales if packing.group_size > 0 else scales.view(())
    tensors = {f"{name}.weight": codes, f"{name}.weight_scale_inv": stored}
    if packing.group_size < 0:
        tensors[f"{name}.activation_scale"] = torch.ones(())
    return tensors, dense


def quantize(
    tensors: Tensors, pattern: str, packing: Packing, divisors: Mapping[str, str] | None = None
) -> tuple[Tensors, Tensors]:
    """A checkpoint's quantised and dense tensors; ``pattern`` picks modules by full name.

    ``divisors`` maps a module pattern to the module name (with its groups) whose ``scales`` divide
    the inputs.
    """
    packed, dense = dict(tensors), dict(tensors)
    for seed, key in enumerate(sorted(tensors)):
        name = key.removesuffix(".weight")
        if name == key or not re.fullmatch(pattern, name):
            continue
        weight = tensors[key]
        del packed[key]
        layer, expanded = pack_layer(name, weight, packing, seed)
        packed.update(layer)
        for module, scaled in (divisors or {}).items():
            match = re.fullmatch(module, name)
            if match:
                factors = torch.rand(weight.shape[1]) + 0.5
                packed[f"{match.expand(scaled)}.scales"] = factors
                expanded = expanded / factors
        dense[key] = expanded
    return packed, dense


def quantized_checkpoints(
    variant: Variant, packing: Packing, folder: Path, left_out: str = ""
) -> tuple[Path, Path]:
    """Writes the quantised checkpoint and the dense one that it stands for; their folders.

    left_out: the end of the names of layers that are not quantised.
    """
    dense, packed = folder / "dense", folder / "packed"
    for path in (dense, packed):
        path.mkdir()
        write(variant, path)
    tensors = load_file(dense / "model.safetensors")
    names = [n.removesuffix(".weight") for n in tensors if is_layer(n.removesuffix(".weight"))]
    names = [n for n in names if not left_out or not n.endswith(left_out)]
    assert len(names) >= 8
    divisors = ACTIVATIONS.get(variant.name) if packing.method == "awq" else None
    pattern = "|".join(re.escape(n) for n in names)
    for path, found in zip(
        (packed, dense), quantize(tensors, pattern, packing, divisors), strict=True
    ):
        contiguous = {name: t.contiguous() for name, t in found.items()}
        save_file(contiguous, path / "model.safetensors")
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = packing.config()
    (packed / "config.json").write_text(json.dumps(config))
    return packed, dense


def _pack_bits(codes: Tensor, bits: int) -> Tensor:
    """(rows, columns) codes as rows of int32: one little-endian string of bits per row."""
    single = (codes.numpy()[..., None] >> np.arange(bits)) & 1
    packed = np.packbits(single.reshape(len(codes), -1).astype(np.uint8), axis=1, bitorder="little")
    return torch.from_numpy(packed.view("<i4").copy())


def _pack_awq(codes: Tensor) -> Tensor:
    """(rows, columns) 4-bit codes, eight columns to an int32 in AWQ's order."""
    eights = codes.numpy().reshape(len(codes), -1, 8)[:, :, list(AWQ_ORDER)]
    return _pack_bits(torch.from_numpy(eights.reshape(len(codes), -1).copy()), 4)
