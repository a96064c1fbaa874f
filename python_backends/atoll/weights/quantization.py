"""How a checkpoint is quantised, and what ``--quantize`` asks for at load.

A quantised checkpoint is recognised by its config; each layer by its ``qweight``, so that layers
left out of the quantisation load as usual. Codes of 4 bits are handed to ``pack_int4`` as they are;
other weights are expanded at load and packed by ``pack_linear`` in the scheme asked for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atoll.errors import ConfigError, WeightError
from atoll.weights import awq, gptq
from atoll.weights.group import Group

METHODS = ("gptq", "awq")
GPTQ_BITS = (2, 3, 4, 8)

# TGI's names for --quantize -> the scheme of ``pack_linear``. gptq and awq say what the checkpoint
# already is; weights that are not quantised yet become what the name promises in size.
SCHEMES: Mapping[str, str] = {
    "awq": "dense",
    "bitsandbytes": "int8",
    "bitsandbytes-fp4": "int4",
    "bitsandbytes-nf4": "int4",
    "eetq": "int8",
    "gptq": "dense",
    "int4": "int4",
    "int8": "int8",
}


@dataclass(frozen=True)
class Quantization:
    """The layout of quantised layers.

    group_size: input features that share a scale; -1: all. zero_offset: added to stored zeros
    (GPTQ's first format stores them less one).
    """

    method: str
    bits: int
    group_size: int
    zero_offset: int = 0

    @classmethod
    def read(cls, folder: Path, raw: Mapping[str, Any]) -> "Quantization | None":
        """From config.json, quantize_config.json or quant_config.json; None: not quantised.

        Raises:
            ConfigError: a method, format or width that cannot be loaded; names it.
        """
        found = raw.get("quantization_config")
        for name, method in (("quantize_config.json", "gptq"), ("quant_config.json", "awq")):
            if found is None and (folder / name).exists():
                found = {"quant_method": method, **json.loads((folder / name).read_text())}
        if found is None:
            return None
        method = str(found.get("quant_method", "gptq")).lower()
        if method not in METHODS:
            raise ConfigError(f"{folder}: quant_method {method!r}; supported: {METHODS}")
        return _gptq(folder, found) if method == "gptq" else _awq(folder, found)


class Codes(NamedTuple):
    """What ``pack_int4`` takes of a layer: see there for shapes and meaning."""

    codes: Tensor
    zeros: Tensor
    scales: Tensor
    groups: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.codes.shape[1], self.codes.shape[0]


def packed_codes(
    group: Group, quantization: Quantization | None, device: torch.device
) -> Codes | None:
    """The 4-bit codes of a quantised layer, parts and order included.

    None where they cannot stay: another width, inputs that AWQ divides, or parts of a fused
    projection whose act-orders differ, or of which some are not quantised.
    """
    if quantization is None or quantization.bits != 4 or group.input_scales() is not None:
        return None
    if not group.has("qweight"):
        return None
    parts = [_codes(group, part, quantization, device) for part in group.parts()]
    if any(not torch.equal(part.groups, parts[0].groups) for part in parts[1:]):
        return None
    rows = group.rows()
    codes, zeros, scales = (
        torch.cat(tensors, dim=1) if rows is None else torch.cat(tensors, dim=1)[:, rows.to(device)]
        for tensors in list(zip(*parts, strict=True))[:3]
    )
    return Codes(codes, zeros, scales, parts[0].groups)


def expand(
    group: Group, quantization: Quantization | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The dense weight (out_features, in_features) of a quantised layer, parts and order included.

    Every part of a fused projection has groups, zeros and an act-order of its own, or was left out
    of the quantisation (``modules_to_not_convert``).

    Raises:
        WeightError: a tensor is missing, or no config says how the layer is quantised.
    """
    if quantization is None:
        raise WeightError(f"{group.target} is quantised, and no config says how")
    weight = torch.cat([_expand(group, p, quantization, dtype, device) for p in group.parts()])
    scales = group.input_scales()
    if scales is not None:
        weight = (weight.float() / scales.to(device).float()).to(dtype)
    rows = group.rows()
    return weight if rows is None else weight[rows.to(device)]


def _expand(
    group: Group, part: str, quantization: Quantization, dtype: torch.dtype, device: torch.device
) -> Tensor:
    q = quantization
    if not group.has_part(part, "qweight"):
        return group.raw(part, "weight").to(device, dtype)
    qweight, qzeros, scales, groups = _stored(group, part, q, device)
    if q.method == "awq":
        return awq.dequantize(qweight, qzeros, scales, groups, dtype)
    return gptq.dequantize(qweight, qzeros, scales, groups, q.bits, q.zero_offset, dtype)


def _codes(group: Group, part: str, quantization: Quantization, device: torch.device) -> Codes:
    q = quantization
    qweight, qzeros, scales, groups = _stored(group, part, q, device)
    if q.method == "awq":
        return Codes(awq.unpack(qweight), awq.unpack(qzeros), scales, groups)
    zeros = gptq.unpack_zeros(qzeros, q.bits, q.zero_offset, scales.shape[1])
    return Codes(gptq.unpack(qweight, q.bits, len(groups)), zeros, scales, groups)


def _stored(
    group: Group, part: str, quantization: Quantization, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(qweight, qzeros, scales, the group of each input)."""
    q = quantization
    qweight, qzeros, scales = (
        group.raw(part, suffix).to(device) for suffix in ("qweight", "qzeros", "scales")
    )
    num_inputs = len(qweight) if q.method == "awq" else len(qweight) * 32 // q.bits
    if group.has_part(part, "g_idx"):
        return qweight, qzeros, scales, group.raw(part, "g_idx").to(device).long()
    size = q.group_size if q.group_size > 0 else num_inputs
    return qweight, qzeros, scales, torch.arange(num_inputs, device=device) // size


def scheme_for(quantize: str) -> str:
    """The ``pack_linear`` scheme that a value of ``--quantize`` asks for.

    Raises:
        ConfigError: unknown; lists what is known.
    """
    if quantize not in SCHEMES:
        raise ConfigError(f"quantize is {quantize!r}; supported: {', '.join(sorted(SCHEMES))}")
    return SCHEMES[quantize]


def _gptq(folder: Path, found: Mapping[str, Any]) -> Quantization:
    form = found.get("checkpoint_format") or "gptq"
    if found.get("is_marlin_format") or form not in ("gptq", "gptq_v2"):
        form = "marlin" if found.get("is_marlin_format") else form
        raise ConfigError(f"{folder}: GPTQ format {form!r}; supported: gptq, gptq_v2")
    bits = int(found["bits"])
    if bits not in GPTQ_BITS:
        raise ConfigError(f"{folder}: GPTQ with {bits} bits; supported: {GPTQ_BITS}")
    return Quantization("gptq", bits, int(found.get("group_size", -1)), int(form == "gptq"))


def _awq(folder: Path, found: Mapping[str, Any]) -> Quantization:
    version = str(found.get("version", "gemm")).lower()
    if version != "gemm":
        raise ConfigError(f"{folder}: AWQ version {version!r}; supported: gemm")
    bits = int(found.get("bits", found.get("w_bit", 4)))
    if bits != 4:
        raise ConfigError(f"{folder}: AWQ with {bits} bits; supported: 4")
    return Quantization("awq", bits, int(found.get("group_size", found.get("q_group_size", 128))))
