"""Mixtral: Mistral's attention, and a mixture of experts in place of the MLP.

Source: config fields and layer names of transformers' ``MixtralForCausalLM``; Jiang et al. 2024.
Files hold one matrix per expert (w1 gate, w3 up, w2 down), or all experts stacked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.layers import Attention, CausalLM, DecoderConfig, RMSNorm
from atoll.layers.block import PreNormBlock
from atoll.layers.moe import MixtureOfExperts
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import activation, read_heads, whole_head_rope
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, WeightMap
from atoll_kernels import Routing

WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    prefixes=("model.", ""),
    modules={
        "embed": "embed_tokens",
        "blocks.{i}.norm1": "layers.{i}.input_layernorm",
        "blocks.{i}.attention.qkv": (
            "layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
            "layers.{i}.self_attn.v_proj",
        ),
        "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
        "blocks.{i}.norm2": "layers.{i}.post_attention_layernorm",
        "blocks.{i}.mlp.router": FirstOf(
            "layers.{i}.block_sparse_moe.gate", "layers.{i}.mlp.gate"
        ),
        "blocks.{i}.mlp.experts.{e}.gate_up": FirstOf(
            ("layers.{i}.block_sparse_moe.experts.{e}.w1",
             "layers.{i}.block_sparse_moe.experts.{e}.w3"),
            "layers.{i}.mlp.experts.gate_up_proj[{e}]",
        ),
        "blocks.{i}.mlp.experts.{e}.down": FirstOf(
            "layers.{i}.block_sparse_moe.experts.{e}.w2",
            "layers.{i}.mlp.experts.down_proj[{e}]",
        ),
        "norm": "norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json."""

    num_experts: int
    experts_per_token: int
    sliding_window: int | None
    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling that is not known."""
        f = Fields(raw)
        hidden_size = f.size("hidden_size")
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        rope = whole_head_rope(f, heads, theta=1e6)
        num_experts = f.size("num_local_experts", "num_experts", default=8, most=MAX_LAYERS)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            heads=heads,
            num_experts=num_experts,
            experts_per_token=f.size("num_experts_per_tok", default=2, most=num_experts),
            eps=f.number("rms_norm_eps", default=1e-5),
            activation=activation(f, "hidden_act", default="silu"),
            max_positions=rope.reach,
            sliding_window=f.size("sliding_window") if f.has("sliding_window") else None,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            rope=rope,
        )


class Model(CausalLM):
    """Pre-norm blocks of grouped-query attention and experts."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)

        def block(layer: int) -> PreNormBlock:
            return PreNormBlock(
                RMSNorm(c.hidden_size, c.eps),
                Attention(
                    c.hidden_size, c.heads, layer=layer, bias=False, window=c.sliding_window,
                    rotary=rotary,
                ),
                RMSNorm(c.hidden_size, c.eps),
                MixtureOfExperts(
                    c.hidden_size, c.intermediate_size, c.num_experts,
                    Routing(c.experts_per_token), c.activation,
                ),
            )  # fmt: skip

        super().__init__(c, block, RMSNorm(c.hidden_size, c.eps))
