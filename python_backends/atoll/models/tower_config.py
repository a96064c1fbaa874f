"""config.json of a model for texts and images: one object for each of its two trunks.

Published files leave out what transformers' classes assume, all of it for SigLIP's base model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.layers.attention import Heads
from atoll.layers.vision import CHANNELS, VisionConfig
from atoll.models.config_fields import activation
from atoll.weights.json_fields import MAX_LAYERS, Fields


def trunk_sizes(f: Fields, assumed: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the configs of both trunks have in common."""
    hidden_size = f.size("hidden_size", default=assumed["hidden_size"])
    num_heads = f.size("num_attention_heads", default=assumed["num_attention_heads"])
    width = f.divided(hidden_size, ("hidden_size",), num_heads, ("num_attention_heads",))
    return {
        "hidden_size": hidden_size,
        "intermediate_size": f.size("intermediate_size", default=assumed["intermediate_size"]),
        "num_layers": f.size(
            "num_hidden_layers", default=assumed["num_hidden_layers"], most=MAX_LAYERS
        ),
        "heads": Heads(num_heads, num_heads, width),
        "eps": f.number("layer_norm_eps", default=assumed["layer_norm_eps"]),
        "activation": activation(f, "hidden_act", default=assumed["hidden_act"]),
    }


def read_vision(f: Fields, assumed: Mapping[str, Any], *, has_class_token: bool) -> VisionConfig:
    """Raises ConfigError: images that are not in colour, or that are smaller than a patch."""
    f.only("num_channels", CHANNELS)
    patch_size = f.size("patch_size", default=assumed["patch_size"])
    image_size = f.size("image_size", default=assumed["image_size"])
    if image_size < patch_size:
        raise f.wrong(f"at least patch_size, {patch_size}", "image_size")
    return VisionConfig(
        **trunk_sizes(f, assumed),
        image_size=image_size,
        patch_size=patch_size,
        has_class_token=has_class_token,
    )
