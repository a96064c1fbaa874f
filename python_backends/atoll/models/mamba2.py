"""Mamba-2: layers of a selective state space alone, without attention and MLP.

Source: config fields and layer names of transformers' ``Mamba2ForCausalLM`` (checkpoints of the
``mamba_ssm`` library have other names); Dao & Gu 2024.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.layers import CausalLM, DecoderConfig, Heads, RMSNorm
from atoll.layers.mamba2 import Mamba2, Mamba2Spec
from atoll.layers.sole_block import SoleMixer
from atoll.models.config_mamba import UNBOUNDED, conv_width, head_width, time_step_limits
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
        "blocks.{i}.mixer.scan": "layers.{i}.mixer",
        "blocks.{i}.mixer.norm": "layers.{i}.mixer.norm",
        "blocks.{i}.mixer.out": "layers.{i}.mixer.out_proj",
        "norm": "norm_f",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. intermediate_size: features of all heads."""

    mamba: Mamba2Spec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for heads that do not make up the inner features."""
        f = Fields(raw)
        hidden_size = f.size("hidden_size")
        mamba = _mamba(f, hidden_size)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=mamba.inner_size,
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            heads=Heads(mamba.num_heads, mamba.num_groups, mamba.head_dim),
            eps=mamba.eps,
            activation=f.only("hidden_act", "silu"),
            max_positions=f.size("max_position_embeddings", default=UNBOUNDED, most=UNBOUNDED),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            mamba=mamba,
        )


def _mamba(f: Fields, hidden_size: int) -> Mamba2Spec:
    num_heads = f.size("num_heads", default=128)
    inner_size = hidden_size * f.size("expand", default=2)
    head_dim = head_width(f, inner_size, "hidden_size and expand", num_heads, "num_heads")
    if f.size("head_dim", default=64) != head_dim:
        raise f.wrong(f"{head_dim}, by hidden_size, expand and num_heads", "head_dim")
    num_groups = f.size("n_groups", default=8)
    f.divided(num_heads, ("num_heads",), num_groups, ("n_groups",))
    bias = f.flag("use_bias", default=False)
    return Mamba2Spec(
        num_heads=num_heads,
        head_dim=head_dim,
        num_groups=num_groups,
        state_size=f.size("state_size", default=128),
        conv_width=conv_width(f, "conv_kernel", 4),
        in_bias=bias,
        conv_bias=f.flag("use_conv_bias", default=True),
        out_bias=bias,
        eps=f.number("layer_norm_epsilon", default=1e-5),
        dt_limits=time_step_limits(f),
    )


class Model(CausalLM):
    """Blocks of one Mamba-2 layer each."""

    def __init__(self, config: Config) -> None:
        c = config

        def block(layer: int) -> SoleMixer:
            mixer = Mamba2(c.hidden_size, c.mamba, index=layer)
            return SoleMixer(RMSNorm(c.hidden_size, c.eps), mixer)

        super().__init__(c, block, RMSNorm(c.hidden_size, c.eps))
