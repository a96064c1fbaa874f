"""YaRN (Peng et al. 2023): a ramp over dimensions between interpolation and extrapolation, and a
temperature of the scores.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from atoll.layers.longrope import TRAINED
from atoll.weights.json_fields import Fields


def read_yarn(scaling: Fields) -> dict[str, Any]:
    """The ramp's ends, and what the temperature follows from; ``factor`` is read elsewhere.

    Raises:
        ConfigError: a value out of range; names the key.
    """
    found: dict[str, Any] = {
        name: scaling.number(name) for name in ("beta_fast", "beta_slow") if scaling.has(name)
    }
    fast, slow = found.get("beta_fast", 32.0), found.get("beta_slow", 1.0)
    if fast <= slow:
        raise scaling.wrong(f"less than beta_fast, {fast:g}", "beta_slow")
    # transformers takes a zero of these for none.
    for name in ("attention_factor", "mscale", "mscale_all_dim"):
        if scaling.has(name):
            above = 0.0 if name == "attention_factor" else None
            found[name] = scaling.number(name, above=above)
    return {**found, "truncate": scaling.flag("truncate", default=True, nullable=True)}


def yarn(
    frequency: Tensor, theta: float, factor: float, options: Mapping[str, Any]
) -> tuple[Tensor, float]:
    """The scaled frequencies, and what cos and sin are multiplied by.

    Args:
        frequency: (rotated features / 2,), by ``theta``. factor: of interpolation.
    """
    trained, dim = float(options[TRAINED]), 2 * len(frequency)
    beta_fast = float(options.get("beta_fast") or 32)
    beta_slow = float(options.get("beta_slow") or 1)

    def dimension(rotations: float) -> float:
        turns = math.log(trained / (rotations * 2 * math.pi))
        return dim * turns / (2 * math.log(theta))

    low, high = dimension(beta_fast), dimension(beta_slow)
    if options.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    index = torch.arange(dim // 2, dtype=torch.float32)
    ramp = ((index - low) / max(high - low, 0.001)).clamp(0, 1)
    return frequency / factor * ramp + frequency * (1 - ramp), _magnitude(factor, options)


def temperature(factor: float, weight: float) -> float:
    """YaRN's temperature of queries, or of keys."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _magnitude(factor: float, options: Mapping[str, Any]) -> float:
    """The temperature, multiplied into cos and sin."""
    if options.get("attention_factor") is not None:
        return float(options["attention_factor"])
    weight, all_dim = options.get("mscale"), options.get("mscale_all_dim")
    if not (weight and all_dim):
        return temperature(factor, 1.0)
    return temperature(factor, weight) / temperature(factor, all_dim)
