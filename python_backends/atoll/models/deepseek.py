"""DeepSeek V2 and V3, Moonlight, Kimi-K2 and GLM-4.7-Flash: latent attention and many experts.

Source: config fields and layer names of transformers' ``DeepseekV2ForCausalLM``,
``DeepseekV3ForCausalLM`` and ``Glm4MoeLiteForCausalLM``; DeepSeek-AI 2024 (V2 and V3). Files of V3
have a layer more, with an ``eh_proj``, for the prediction of several tokens; it is not used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atoll.layers import CausalLM, DecoderConfig, RMSNorm
from atoll.layers.attention import Heads
from atoll.layers.block import PreNormBlock
from atoll.layers.mla import LatentAttention, LatentHeads
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_experts import FEED_FORWARD_WEIGHTS, Experts, read_experts, read_rope
from atoll.models.config_fields import activation, check_equal_layers, check_width
from atoll.weights.fused_qkv import unpaired
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import Reorder, WeightMap


def _query_rows(config: "Config") -> Tensor:
    """Of every head, the rotated features in the order of the kernels."""
    h = config.latent
    rows = torch.arange(h.num_heads * h.query_dim).view(h.num_heads, h.query_dim)
    if config.is_paired:
        rows[:, h.nope_dim :] = rows[:, h.nope_dim + unpaired(h.rope_dim)]
    return rows.flatten()


def _latent_rows(config: "Config") -> Tensor:
    h = config.latent
    rows = torch.arange(h.row_dim)
    if config.is_paired:
        rows[h.kv_rank :] = rows[h.kv_rank + unpaired(h.rope_dim)]
    return rows


WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    extra_layers="layers.{i}.eh_proj",
    prefixes=("model.", ""),
    modules={
        "embed": "embed_tokens",
        "blocks.{i}.norm1": "layers.{i}.input_layernorm",
        "blocks.{i}.attention.q": Reorder("layers.{i}.self_attn.q_proj", _query_rows),
        "blocks.{i}.attention.q_a": "layers.{i}.self_attn.q_a_proj",
        "blocks.{i}.attention.q_norm": "layers.{i}.self_attn.q_a_layernorm",
        "blocks.{i}.attention.q_b": Reorder("layers.{i}.self_attn.q_b_proj", _query_rows),
        "blocks.{i}.attention.kv_a": Reorder(
            "layers.{i}.self_attn.kv_a_proj_with_mqa", _latent_rows
        ),
        "blocks.{i}.attention.kv_norm": "layers.{i}.self_attn.kv_a_layernorm",
        "blocks.{i}.attention.kv_b": "layers.{i}.self_attn.kv_b_proj",
        "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
        "blocks.{i}.norm2": "layers.{i}.post_attention_layernorm",
        **FEED_FORWARD_WEIGHTS,
        "norm": "norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json.

    q_rank: None for queries of one projection. is_paired: whether neighbouring features are rotated
    together. has_mlp_bias: of the dense MLPs and the shared experts.
    """

    latent: LatentHeads
    q_rank: int | None
    has_bias: bool
    has_mlp_bias: bool
    is_paired: bool
    rope: RopeSpec
    experts: Experts

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling or a way of routing that is not known."""
        f, kind = Fields(raw), str(raw.get("model_type"))
        is_second, hidden_size = kind == "deepseek_v2", f.size("hidden_size")
        num_layers = f.size("num_hidden_layers", most=MAX_LAYERS)
        num_heads = f.size("num_attention_heads")
        if is_second:
            f.divided(hidden_size, ("hidden_size",), num_heads, ("num_attention_heads",))
        num_kv_heads = f.size("num_key_value_heads", default=num_heads, nullable=True)
        if num_kv_heads != num_heads:
            raise f.wrong(f"num_attention_heads, {num_heads}", "num_key_value_heads")
        latent = LatentHeads(
            num_heads, f.size("qk_nope_head_dim"), f.size("qk_rope_head_dim"),
            f.size("v_head_dim"), f.size("kv_lora_rank"),
        )  # fmt: skip
        check_width(f, latent.rope_dim, latent.rope_dim, "qk_rope_head_dim")
        # In files that transformers has saved again.
        if f.size("head_dim", default=latent.rope_dim, nullable=True) != latent.rope_dim:
            raise f.wrong(f"qk_rope_head_dim, {latent.rope_dim}", "head_dim")
        check_equal_layers(f, num_layers)
        rope = read_rope(f, latent.rope_dim)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=num_layers,
            heads=Heads(num_heads, 1, latent.row_dim),
            eps=f.number("rms_norm_eps", default=1e-6),
            activation=activation(f, "hidden_act", default="silu"),
            max_positions=rope.reach,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            latent=latent,
            q_rank=f.size("q_lora_rank") if f.has("q_lora_rank") else f.only("q_lora_rank", None),
            has_bias=f.flag("attention_bias", default=False),
            has_mlp_bias=is_second and f.flag("mlp_bias", default=False),
            is_paired=is_second or f.flag("rope_interleave", default=True),
            rope=rope,
            experts=read_experts(f, kind, num_layers),
        )

    @property
    def num_experts(self) -> int:
        """Of a layer that has experts."""
        return self.experts.num_experts


class Model(CausalLM):
    """Pre-norm blocks of latent attention and a gated MLP, or experts with a shared one."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)
        scale = c.latent.query_dim**-0.5 * c.rope.score_scale

        def block(layer: int) -> PreNormBlock:
            attention = LatentAttention(
                c.hidden_size, c.latent, layer=layer, q_rank=c.q_rank, scale=scale, rotary=rotary,
                bias=c.has_bias,
            )  # fmt: skip
            mlp = c.experts.feed_forward(
                layer, c.hidden_size, c.intermediate_size, c.activation, c.has_mlp_bias
            )
            return PreNormBlock(
                RMSNorm(c.hidden_size, c.eps), attention, RMSNorm(c.hidden_size, c.eps), mlp
            )

        super().__init__(c, block, RMSNorm(c.hidden_size, c.eps))
