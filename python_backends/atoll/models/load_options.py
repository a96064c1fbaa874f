"""From settings to how weights are held: device, dtype and scheme of the linear layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from atoll.cgroup import num_cores
from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.layers.longrope import short_only
from atoll.layers.query_growth import GROWTH
from atoll.layers.rotary import RopeSpec
from atoll.models.families import DECODERS
from atoll.models.registry import Checkpoint, architecture
from atoll.weights.json_fields import Fields, stored_dtype
from atoll.weights.load import LoadOptions
from atoll.weights.quantization import METHODS, Quantization, scheme_for
from atoll_kernels import dispatch
from atoll_kernels.backends import Capabilities, KernelPolicy, dtype_refusal, refusal

logger = logging.getLogger(__name__)

# Made by the drivers of NVIDIA and AMD.
_GPU_FILES = (Path("/dev/nvidia0"), Path("/dev/kfd"))
# Their activations leave the range of float16.
_OVERFLOW_FLOAT16 = (
    "t5", "mt5", "umt5", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma4", "gemma4_text",
    "gpt_oss",
)  # fmt: skip
# Layers with a window and those without are rotated differently.
_TWO_ROTATIONS = ("gemma3_text", "gemma4_text", "olmo3")


def load_options(settings: Settings, raw: Mapping[str, Any]) -> LoadOptions:
    """``raw``: the checkpoint's config.json, whose dtype a GPU keeps.

    Raises:
        ConfigError: a device that is not there or not served, a dtype that it lacks, or a
            quantisation that is not known.
    """
    device = device_of(settings.device)
    stored_dtype(Fields(raw))  # a wrong one is told wherever the model runs
    dtype = _activations(settings, device, raw)
    if device.type != "cpu":
        check_device(Capabilities.of(device), dtype)
    method = settings.quantize if settings.quantize in METHODS else None
    return LoadOptions(
        dtype, device, _scheme(settings), expected_method=method,
        keeps_blocks=_keeps_blocks(settings, dtype, device),
    )  # fmt: skip


def keeps_blocks(settings: Settings, raw: Mapping[str, Any]) -> bool:
    """Whether what a GGUF file has in 4 bits stays so; a GPU that is named need not be there."""
    if settings.device.startswith("cuda"):
        return _scheme(settings) != "int8"
    device = device_of(settings.device)
    return _keeps_blocks(settings, _activations(settings, device, raw), device)


def keeps_bytes(settings: Settings, raw: Mapping[str, Any]) -> bool:
    """Whether what a GGUF file has in 8 bits stays so, see ``LoadOptions.keeps_bytes``."""
    if settings.device.startswith("cuda") or _scheme(settings) != "dense":
        return False
    return device_of(settings.device).type == "cpu" and keeps_blocks(settings, raw)


def _keeps_blocks(settings: Settings, dtype: torch.dtype, device: torch.device) -> bool:
    # torch's kernel for 4 bits and float32 takes 60 times as long as a dense product.
    is_slow = device.type == "cpu" and dtype == torch.float32
    scheme = _scheme(settings)
    return scheme == "int4" or (scheme == "dense" and not is_slow)


def _scheme(settings: Settings) -> str:
    if settings.quantize is not None:
        return scheme_for(settings.quantize)
    return settings.dtype if settings.dtype in ("int8", "int4") else "dense"


def device_of(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``; a GPU always with its number.

    Raises:
        ConfigError: another name, or a GPU that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        found = [path for path in _GPU_FILES if name == "cpu" and path.exists()]
        if found:
            logger.warning(
                "the CPU serves the model: there is a GPU (%s), and torch %s does not see it; "
                "`atoll doctor` says more", found[0], torch.__version__,
            )  # fmt: skip
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or not (number.isdecimal() or name == kind):
        raise ConfigError(f"device is {name!r}; expected auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(f"device is {name!r}; torch sees no GPU")
    index, count = int(number or 0), torch.cuda.device_count()
    if index >= count:
        raise ConfigError(f"device is {name!r}; GPUs here: {count}, counted from 0")
    return torch.device("cuda", index)


def check_device(capabilities: Capabilities, dtype: torch.dtype) -> None:
    """Raises ConfigError: the card, or this dtype on it, is not served; names both."""
    reason = refusal(capabilities) or dtype_refusal(capabilities, dtype)
    if reason is not None:
        raise ConfigError(f"{reason}; device=cpu serves the model without it")


def prepare_process(settings: Settings) -> None:
    """Threads and kernels of this process, which serves one model; before the model is built."""
    dispatch.configure(KernelPolicy(settings.disable_custom_kernels, settings.use_flash_attention))
    # torch counts the host's cores, whatever a container may use of them.
    torch.set_num_threads(settings.num_threads or min(torch.get_num_threads(), num_cores()))


def rescaled(checkpoint: Checkpoint, settings: Settings) -> Checkpoint:
    """The checkpoint with the rope scaling that the settings ask for; its reach grows with it.

    LongRoPE has the short factors where ``max_total_tokens`` keeps every text within them.

    Raises:
        ConfigError: a factor without a kind, a kind that is not known, or a model that cannot be
            given it.
    """
    kind, factor = settings.rope_scaling, settings.rope_factor
    if kind is None and factor is None:
        limit = RopeSpec.longrope_limit(checkpoint.raw)
        is_short = limit is not None and (settings.max_total_tokens or limit + 1) <= limit
        return _with_short_factors(checkpoint) if is_short else checkpoint
    if kind not in ("linear", "dynamic") or factor is None:
        raise ConfigError(
            f"rope_scaling is {kind!r} and rope_factor is {factor}; expected linear or dynamic, "
            "and a factor"
        )
    _check_scalable(checkpoint.raw, kind)
    fields, name = Fields(checkpoint.raw), "max_position_embeddings"
    old = fields.inside("rope_parameters")
    raw = {key: value for key, value in checkpoint.raw.items() if key != "rope_parameters"}
    raw["rope_scaling"] = {"rope_type": kind, "factor": factor}
    if old.has("rope_theta"):
        raw["rope_theta"] = old.raw["rope_theta"]
    if old.has("partial_rotary_factor"):
        raw.setdefault("partial_rotary_factor", old.raw["partial_rotary_factor"])
    if kind == "linear" and fields.has(name):
        raw[name] = int(fields.size(name) * factor)
    return replace(checkpoint, raw=raw)


def _check_scalable(raw: Mapping[str, Any], kind: str) -> None:
    """Raises ConfigError: the setting would do nothing, or would replace more than a scaling."""
    model_type, fields = raw.get("model_type"), Fields(raw)
    config = architecture(raw, DECODERS).Config
    reason = ""
    if "rope" not in config.__dataclass_fields__ or raw.get("alibi"):
        reason = "has no rotary embedding"
    elif model_type in _TWO_ROTATIONS:
        reason = (
            "has a rotation for layers with a window and another for the rest: scale them in "
            "config.json"
        )
    elif any(fields.inside(name).has(GROWTH) for name in ("rope_parameters", "rope_scaling")):
        reason = f"has {GROWTH} in its own scaling, which would be lost: change it in config.json"
    if reason:
        raise ConfigError(f"rope_scaling is {kind!r}; model_type {model_type!r} {reason}")


def longrope_notes(checkpoint: Checkpoint, settings: Settings) -> tuple[str, ...]:
    """What a user of a LongRoPE checkpoint should know of its two lists of factors."""
    limit = RopeSpec.longrope_limit(checkpoint.raw)
    if limit is None or settings.rope_scaling is not None:
        return ()
    positions = Fields(checkpoint.raw).size("max_position_embeddings")
    if positions <= limit:
        return ()
    if (settings.max_total_tokens or positions) <= limit:
        return ("longrope: every text is rotated by the short factors",)
    return (
        "longrope: every text, also a short one, is rotated by the long factors; "
        f"max_total_tokens {limit} or less serves with the short ones",
    )


def fp8_notes(quantization: Quantization | None, settings: Settings) -> tuple[str, ...]:
    """What a user of an FP8 checkpoint should know of the memory that it takes."""
    is_packed = settings.dtype in ("int8", "int4") or settings.quantize is not None
    if quantization is None or quantization.method != "fp8" or is_packed:
        return ()
    return (
        "fp8: weights are expanded when they are loaded, and take the memory of dtype; quantize "
        "int8 holds them in 8 bits",
    )


def _with_short_factors(checkpoint: Checkpoint) -> Checkpoint:
    raw = dict(checkpoint.raw)
    name = "rope_scaling" if Fields(raw).inside("rope_scaling").raw else "rope_parameters"
    return replace(checkpoint, raw={**raw, name: short_only(raw[name])})


def _activations(settings: Settings, device: torch.device, raw: Mapping[str, Any]) -> torch.dtype:
    if settings.dtype in ("int8", "int4", "auto"):
        return _fast_dtype(device, raw)
    if settings.dtype == "default":
        return torch.float32 if device.type == "cpu" else _fast_dtype(device, raw)
    named: torch.dtype = getattr(torch, settings.dtype)
    return named


def _fast_dtype(device: torch.device, raw: Mapping[str, Any]) -> torch.dtype:
    """The fastest dtype that keeps the checkpoint's quality."""
    if device.type == "cpu":
        # Without bf16 instructions bfloat16 is emulated, and slower than float32.
        has_bf16 = torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if has_bf16 else torch.float32
    dtype = getattr(torch, stored_dtype(Fields(raw)) or "float16", torch.float16)
    overflows = raw.get("model_type") in _OVERFLOW_FLOAT16
    has_bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
    if has_bf16 and (dtype == torch.bfloat16 or overflows):
        return torch.bfloat16
    return torch.float32 if overflows else torch.float16
