"""LongRoPE (Ding et al. 2024): a divisor for each frequency, of one list for short texts and of
another for long ones.

Keys that were rotated by one list do not fit queries that were rotated by the other, so a model
uses one of them for every text: the long list if it has more positions than it was trained on. A
server whose texts all stay within the trained positions can ask for the short one (``short_only``).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from atoll.weights.json_fields import Fields

TRAINED = "original_max_position_embeddings"
_LISTS = ("short_factor", "long_factor")
_OF_WHAT = (
    "one for each pair of rotated features of a head (hidden_size, num_attention_heads, head_dim, "
    "partial_rotary_factor)"
)


def read_longrope(scaling: Fields, dim: int) -> dict[str, Any]:
    """Both lists, one divisor for each pair of the ``dim`` rotated features, and the magnitude.

    Raises:
        ConfigError: a list has another length or holds something else; names it.
    """
    found: dict[str, Any] = {name: scaling.numbers(name, dim // 2, _OF_WHAT) for name in _LISTS}
    if scaling.has("attention_factor"):
        found["attention_factor"] = scaling.number("attention_factor")
    return found


def longrope(
    frequency: Tensor, positions: int, factor: float, options: Mapping[str, Any]
) -> tuple[Tensor, float]:
    """The divided frequencies, and what cos and sin are multiplied by.

    Args:
        positions: that the model has. factor: how many times those it was trained on.
    """
    trained = int(options[TRAINED])
    name = "long_factor" if positions > trained else "short_factor"
    magnitude = options.get("attention_factor")
    if magnitude is None:
        magnitude = math.sqrt(1 + math.log(factor) / math.log(trained)) if factor > 1 else 1.0
    return frequency / torch.tensor(options[name], dtype=torch.float32), float(magnitude)


def short_only(scaling: Mapping[str, Any]) -> dict[str, Any]:
    """A LongRoPE scaling that uses the short list for every text."""
    return {**scaling, "long_factor": scaling.get("short_factor")}
