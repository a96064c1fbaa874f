"""Reads quantised layers: codes, zeros, scales and groups, as the config says that they are.

Each layer is recognised by its tensors, so that layers left out of the quantisation load as usual.
Codes of 4 bits are handed to ``pack_int4`` as they are; other weights are expanded at load and
packed by ``pack_linear`` in the scheme asked for. Of a layer that several ranks split, each unpacks
little more than its own part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.errors import WeightError
from atoll.weights import awq, gptq
from atoll.weights.fp8 import SCALE, read_fp8
from atoll.weights.layer_tensors import LayerTensors, Mismatch
from atoll.weights.parts import Part, take
from atoll.weights.quantization import Quantization
from atoll.weights.quantized_windows import Shape, Window, Windows, windows, words

_OF_QUANTIZED = ("qweight", "qzeros", "scales", SCALE)


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


def is_quantized(group: LayerTensors, part: str) -> bool:
    """Whether a part has a tensor that only quantised layers have."""
    return any(group.has_part(part, suffix) for suffix in _OF_QUANTIZED)


def packed_codes(
    group: LayerTensors, shape: Shape, quantization: Quantization | None, device: torch.device
) -> Codes | None:
    """The 4-bit codes of a quantised layer, parts and order included.

    None where they cannot stay: another width, inputs that AWQ divides, or parts of a fused
    projection whose act-orders differ, or of which some are not quantised.

    Raises:
        WeightError: as ``expand``.
    """
    if quantization is None or quantization.bits != 4:
        return None
    if _input_scales(group, shape, quantization) is not None:
        return None
    if not all(is_quantized(group, part) for part in group.parts()):
        return None
    found = windows(group, shape)
    return joined_codes([_codes(group, w, quantization, device) for w in found.parts], found)


def joined_codes(parts: Sequence[Codes], found: Windows) -> Codes | None:
    """The codes of a layer from those of its windows; None if their inputs' groups differ."""
    if any(not torch.equal(part.groups, parts[0].groups) for part in parts[1:]):
        return None
    codes, zeros, scales = (
        torch.cat(tensors, dim=1) if found.rows is None else _columns(tensors, found.rows)
        for tensors in list(zip(*parts, strict=True))[:3]
    )
    groups = parts[0].groups
    whole = Codes(codes, zeros, scales, groups)
    return whole if found.inputs is None else _held_inputs(whole, found.inputs)


def expand(
    group: LayerTensors,
    shape: Shape,
    quantization: Quantization | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """The dense weight (out_features, in_features) of a quantised layer, parts and order included.

    Every part of a fused projection has groups, zeros and an act-order of its own, or was left out
    of the quantisation (``modules_to_not_convert``).

    Raises:
        WeightError: a tensor is missing, or of another shape or kind than the config says; or no
            config says how the layer is quantised.
    """
    if quantization is None:
        found = next(p for p in group.parts() if is_quantized(group, p))
        raise Mismatch(
            f"{group.reader.folder}: {group.name(found, _suffix(group, found))} is quantised, and "
            "neither config.json nor a file beside it says how"
        )
    held = windows(group, shape)
    weight = torch.cat([
        _expand(group, window, quantization, dtype, device) for window in held.parts
    ])  # fmt: skip
    scales = _input_scales(group, shape, quantization)
    if scales is not None:
        scales = scales[held.parts[0].inputs].to(device)
        weight = (weight.float() / scales.float()).to(dtype)
    if held.inputs is not None:
        weight = held.inputs.columns(weight).contiguous()
    return weight if held.rows is None else take([weight], held.rows.to(device))


def _suffix(group: LayerTensors, part: str) -> str:
    """What a quantised part's tensor is called."""
    return "weight" if group.has_part(part, SCALE) else "qweight"


def _columns(tensors: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Outputs ``rows`` of (inputs or groups, outputs) tensors; of those at -1 all is zero."""
    whole = torch.cat(list(tensors), dim=1)
    return take([whole.t()], rows.to(whole.device)).t()


def _held_inputs(whole: Codes, inputs: Part) -> Codes:
    """Of a layer's codes those of some inputs, in groups of one size where these are in order.

    Kernels take no others: of groups of 128, one that a rank's part cuts in halves makes all of
    them groups of 64, with the same scales. Inputs that are filled up are a group without a scale.
    """
    count = inputs.num_filled
    used, groups = whole.groups[inputs.span].unique(return_inverse=True)
    zeros, scales, codes = whole.zeros[used], whole.scales[used], whole.codes[inputs.span]
    if count:
        zeros, scales = F.pad(zeros, (0, 0, 0, 1)), F.pad(scales, (0, 0, 0, 1))
        groups, codes = F.pad(groups, (0, count), value=len(used)), F.pad(codes, (0, 0, 0, count))
    size = math.gcd(*groups.bincount().tolist())
    firsts = groups[::size]
    if torch.equal(firsts.repeat_interleave(size), groups):
        zeros, scales = zeros[firsts], scales[firsts]
        groups = torch.arange(len(groups), device=groups.device) // size
    return Codes(codes.contiguous(), zeros, scales, groups)


def _input_scales(group: LayerTensors, shape: Shape, quantization: Quantization) -> Tensor | None:
    """Divisors of the inputs, (in_features,): AWQ always writes them where a family has a place."""
    source = group.input_scales_source
    if source is None or (quantization.method != "awq" and not group.has_part(source, "scales")):
        return None
    return group.part(source, "scales", (shape.inputs.total,))


def _expand(
    group: LayerTensors, window: Window, quantization: Quantization, dtype: torch.dtype,
    device: torch.device,
) -> Tensor:  # fmt: skip
    q = quantization
    if not is_quantized(group, window.part):
        weight = group.part(window.part, "weight", window.shape)
        return weight[window.outputs, window.inputs].to(device, dtype)
    if q.method == "fp8":
        return read_fp8(group, window, q, dtype, device)
    qweight, qzeros, scales, groups = _stored(group, window, q, device)
    if q.method == "awq":
        return awq.dequantize(qweight, qzeros, scales, groups, dtype)
    return gptq.dequantize(qweight, qzeros, scales, groups, q.bits, q.zero_offset, dtype)


def _codes(
    group: LayerTensors, window: Window, quantization: Quantization, device: torch.device
) -> Codes:
    q = quantization
    qweight, qzeros, scales, groups = _stored(group, window, q, device)
    if q.method == "awq":
        return Codes(awq.unpack(qweight), awq.unpack(qzeros), scales, groups)
    zeros = gptq.unpack_zeros(qzeros, q.bits, q.zero_offset, scales.shape[1])
    return Codes(gptq.unpack(qweight, q.bits, len(groups)), zeros, scales, groups)


def _stored(
    group: LayerTensors, window: Window, quantization: Quantization, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(qweight, qzeros, scales, the group of each input) of a window, as the config says.

    Raises:
        WeightError: a tensor is missing, of another shape or kind; names it and the config.
    """
    q, part, (num_outputs, num_inputs) = quantization, window.part, window.shape
    num_groups, is_awq = q.num_groups(num_inputs), quantization.method == "awq"
    input_words, output_words = (-(-count * q.bits // 32) for count in (num_inputs, num_outputs))
    packed = (num_inputs, output_words) if is_awq else (input_words, num_outputs)
    qweight = _tensor(group, part, "qweight", packed, q)
    qzeros = _tensor(group, part, "qzeros", (num_groups, output_words), q)
    scales = _tensor(group, part, "scales", (num_groups, num_outputs), q)
    of_zeros = words(window.outputs, q.bits)
    of_weight = (window.inputs, of_zeros)
    if not is_awq:
        of_weight = (words(window.inputs, q.bits), window.outputs)
    qweight, qzeros = qweight[of_weight].to(device), qzeros[:, of_zeros].to(device)
    scales = scales[:, window.outputs].to(device)
    if q.symmetric and not is_awq:
        zeros = gptq.unpack_zeros(qzeros, q.bits, q.zero_offset, window.num_outputs)
        if bool((zeros != 1 << (q.bits - 1)).any()):
            raise _contradiction(group, part, "qzeros", "the same zero throughout, as sym says", q)
    groups = _groups(group, part, num_inputs, q)[window.inputs].to(device)
    return qweight, qzeros, scales, groups


def _groups(group: LayerTensors, part: str, num_inputs: int, quantization: Quantization) -> Tensor:
    """The group of each input, (num_inputs,) int64."""
    q = quantization
    in_order = torch.arange(num_inputs) // (q.group_size if q.group_size > 0 else num_inputs)
    if q.method == "awq" or not (q.act_order or group.has_part(part, "g_idx")):
        return in_order
    groups = _tensor(group, part, "g_idx", (num_inputs,), q).long()
    last = q.num_groups(num_inputs) - 1
    if int(groups.min()) < 0 or int(groups.max()) > last:
        raise _contradiction(group, part, "g_idx", f"groups from 0 to {last}", q)
    if q.act_order is False and not torch.equal(groups, in_order):
        raise _contradiction(group, part, "g_idx", "groups in order, as desc_act false says", q)
    return groups


def _tensor(
    group: LayerTensors, part: str, suffix: str, shape: tuple[int, ...], quantization: Quantization
) -> Tensor:
    """One tensor of a layer, of this shape and of the kind that its suffix tells."""
    found = group.shape(part, suffix)
    if found != shape:
        raise _contradiction(group, part, suffix, f"shape {shape}, not {found}", quantization)
    tensor = group.raw(part, suffix)
    wanted = "floating point" if suffix == "scales" else "int32"
    is_right = tensor.is_floating_point() if suffix == "scales" else tensor.dtype == torch.int32
    if not (is_right or (suffix == "g_idx" and tensor.dtype == torch.int64)):
        raise _contradiction(group, part, suffix, f"{wanted}, not {tensor.dtype}", quantization)
    return tensor


def _contradiction(
    group: LayerTensors, part: str, suffix: str, needed: str, quantization: Quantization
) -> WeightError:
    q = quantization
    return WeightError(
        f"{group.reader.folder}: tensor {group.name(part, suffix)!r} needs {needed}: {q.source} "
        f"says {q.method}, bits {q.bits}, group_size {q.group_size}"
    )
