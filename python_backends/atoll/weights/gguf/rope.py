"""The rotary embedding that metadata and a few tensors describe, as config.json has it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from atoll.errors import UnsupportedModel
from atoll.weights.gguf.file import GgufFile

FREQUENCIES = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
# Tensors that become part of the config.
TENSORS = (FREQUENCIES, LONG, SHORT)
# What no scaling here has another value of.
_NEUTRAL = {
    "rope.scaling.attn_factor": 1.0, "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0,
}  # fmt: skip
KEYS = (
    "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear",
    "rope.scaling.original_context_length", "rope.scaling.finetuned",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", *_NEUTRAL,
)  # fmt: skip
# Of Llama 3.1 and later: its factors of low and high frequencies, and trained positions. The file
# has only what follows from them.
_LLAMA3 = {
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip
_TOLERANCE = 1e-4


def read_rope(file: GgufFile, width: int) -> dict[str, Any]:
    """``rope_theta``, and ``rope_scaling`` where there is one.

    width: rotated features of a head.

    Raises:
        UnsupportedModel: a scaling that is not known; names the key or the tensor.
    """
    config: dict[str, Any] = {"rope_theta": float(_get(file, "rope.freq_base", 10000.0))}
    scaling = _scaling(file, config["rope_theta"], width)
    if scaling is not None:
        config["rope_scaling"] = scaling
    if scaling is None or scaling["rope_type"] != "longrope":
        _check_neutral(file)
    return config


def _get(file: GgufFile, key: str, default: Any = None) -> Any:
    return file.metadata.get(f"{file.architecture}.{key}", default)


def _scaling(file: GgufFile, theta: float, width: int) -> dict[str, Any] | None:
    if FREQUENCIES in file.tensors:
        return _llama3(file, theta, width)
    if LONG in file.tensors or SHORT in file.tensors:
        return _longrope(file)
    factor = _get(file, "rope.scaling.factor", _get(file, "rope.scale_linear"))
    trained = _get(file, "rope.scaling.original_context_length")
    # A factor alone is linear; zero stands for none.
    kind = _get(file, "rope.scaling.type", "linear" if factor else "none")
    if kind == "linear":
        return {"rope_type": "linear", "factor": float(_needed(file, "factor", factor))}
    if kind == "yarn":
        found = {
            "rope_type": "yarn", "factor": float(_needed(file, "factor", factor)),
            "original_max_position_embeddings": _needed(file, "original_context_length", trained),
        }  # fmt: skip
        for name in ("beta_fast", "beta_slow"):
            value = _get(file, f"rope.scaling.yarn_{name}")
            found |= {} if value is None else {name: float(value)}
        return found
    if kind != "none":
        raise UnsupportedModel(
            f"{file.path}: {file.architecture}.rope.scaling.type is {kind!r}; supported: none, "
            f"linear, yarn, and longrope with {LONG}"
        )
    return None


def _needed(file: GgufFile, name: str, value: Any) -> Any:
    return file.require(f"{file.architecture}.rope.scaling.{name}") if value is None else value


def _check_neutral(file: GgufFile) -> None:
    for key, value in _NEUTRAL.items():
        found = _get(file, key, value)
        if not math.isclose(found, value, rel_tol=1e-6):
            raise UnsupportedModel(
                f"{file.path}: {file.architecture}.{key} is {found}; supported: {value:g}"
            )


def _longrope(file: GgufFile) -> dict[str, Any]:
    trained = "rope.scaling.original_context_length"
    found: dict[str, Any] = {
        "rope_type": "longrope",
        "original_max_position_embeddings": file.require(f"{file.architecture}.{trained}"),
    }
    for name, tensor in (("long_factor", LONG), ("short_factor", SHORT)):
        file.require_tensor(tensor)
        found[name] = file.values(tensor).tolist()
    magnitude = _get(file, "rope.scaling.attn_factor")
    return found if magnitude is None else {**found, "attention_factor": float(magnitude)}


def _llama3(file: GgufFile, theta: float, width: int) -> dict[str, Any]:
    """The scaling of which the file has the divisor of each frequency."""
    divisors = file.values(FREQUENCIES)
    factor = float(divisors.max(initial=1.0))
    expected = _llama3_divisors(factor, theta, width)
    if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=_TOLERANCE):
        raise UnsupportedModel(
            f"{file.path}: tensor {FREQUENCIES!r} holds other divisors than Llama 3.1's scaling by "
            f"{factor:g}, the only one that is supported"
        )
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3}


def _llama3_divisors(factor: float, theta: float, width: int) -> npt.NDArray[np.float64]:
    """Dubey et al. 2024: 1 for short wavelengths, ``factor`` for long ones, a ramp between."""
    low, high, trained = _LLAMA3.values()
    turns = trained / (2 * np.pi * theta ** (np.arange(0, width, 2) / width))
    ramp = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - ramp) / factor + ramp), np.float64)
