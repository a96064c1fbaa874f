"""Mamba and Falcon-Mamba: layers of a selective state space alone, without attention and MLP.

Source: config fields and layer names of transformers' ``MambaForCausalLM`` and
``FalconMambaForCausalLM``, which norms what it selects by (checkpoints of the ``mamba_ssm`` library
have other names); Gu & Dao 2023, Zuo et al. 2024.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.layers import CausalLM, DecoderConfig, Heads, RMSNorm
from atoll.layers.mamba import Mamba, MambaSpec
from atoll.layers.sole_block import SoleMixer
from atoll.models.config_mamba import UNBOUNDED, conv_width
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, WeightMap

WEIGHTS = WeightMap(
    anchor="norm_f",
    complete=("layers.",),
    prefixes=("backbone.", ""),
    modules={
        "embed": FirstOf("embeddings", "embedding"),
        "blocks.{i}.norm": "layers.{i}.norm",
        "blocks.{i}.mixer.in_proj": "layers.{i}.mixer.in_proj",
        "blocks.{i}.mixer.conv": "layers.{i}.mixer.conv1d",
        "blocks.{i}.mixer.select": "layers.{i}.mixer.x_proj",
        "blocks.{i}.mixer.dt": "layers.{i}.mixer.dt_proj",
        "blocks.{i}.mixer.scan": "layers.{i}.mixer",
        "blocks.{i}.mixer.out": "layers.{i}.mixer.out_proj",
        "norm": "norm_f",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. intermediate_size: channels."""

    mamba: MambaSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a value that is out of range; names the key."""
        f = Fields(raw)
        hidden_size = f.size("hidden_size")
        mamba = _mamba(f, hidden_size, raw.get("model_type") == "falcon_mamba")
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=mamba.inner_size,
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            heads=Heads(1, 1, mamba.inner_size),
            eps=f.number("layer_norm_epsilon", default=1e-5),
            activation=f.only("hidden_act", "silu"),
            max_positions=f.size("max_position_embeddings", default=UNBOUNDED, most=UNBOUNDED),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            mamba=mamba,
        )


def _mamba(f: Fields, hidden_size: int, is_normed: bool) -> MambaSpec:
    # Where both are there, ``expand`` may be another number (Falcon-Mamba).
    inner_size = 0 if f.has("intermediate_size") else hidden_size * f.size("expand", default=2)
    rank = -(-hidden_size // 16)
    if f.raw.get("time_step_rank", "auto") != "auto":
        rank = f.size("time_step_rank")
    return MambaSpec(
        inner_size=inner_size or f.size("intermediate_size"),
        state_size=f.size("state_size", default=16),
        conv_width=conv_width(f, "conv_kernel", 4),
        dt_rank=rank,
        bias=f.flag("use_bias", default=False),
        conv_bias=f.flag("use_conv_bias", default=True),
        norm_eps=f.number("mixer_rms_eps", default=1e-6) if is_normed else None,
    )


class Model(CausalLM):
    """Blocks of one Mamba layer each."""

    def __init__(self, config: Config) -> None:
        c = config

        def block(layer: int) -> SoleMixer:
            mixer = Mamba(c.hidden_size, c.mamba, index=layer)
            return SoleMixer(RMSNorm(c.hidden_size, c.eps), mixer)

        super().__init__(c, block, RMSNorm(c.hidden_size, c.eps))
