"""gpt-oss: experts in 4-bit floats, attention sinks, and a window in every other layer.

Source: config fields and layer names of transformers' ``GptOssForCausalLM``; the model card of
OpenAI 2025. The published files hold the experts in MXFP4, and re-saved ones as stacks of (inputs,
outputs). Rows of gate and up alternate in both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import atoll_kernels as kernels
from atoll.errors import ConfigError
from atoll.layers import Attention, CausalLM, DecoderConfig, Linear, RMSNorm
from atoll.layers.block import PreNormBlock
from atoll.layers.moe import MixtureOfExperts
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import check_width, layer_windows, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.mxfp4 import BLOCK
from atoll.weights.weight_map import Reorder, Transposed, WeightMap


def _gate_then_up(config: "Config") -> Tensor:
    return torch.arange(2 * config.intermediate_size).view(-1, 2).t().flatten()


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
        "blocks.{i}.attention.sinks": "layers.{i}.self_attn",
        "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
        "blocks.{i}.norm2": "layers.{i}.post_attention_layernorm",
        "blocks.{i}.mlp.router": "layers.{i}.mlp.router",
        "blocks.{i}.mlp.experts.{e}.gate_up": Reorder(
            Transposed("layers.{i}.mlp.experts.gate_up_proj[{e}]"), _gate_then_up
        ),
        "blocks.{i}.mlp.experts.{e}.down": Transposed("layers.{i}.mlp.experts.down_proj[{e}]"),
        "norm": "norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip

# What transformers assumes where a file has none.
_ROPE = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. windows: of each layer."""

    num_experts: int
    experts_per_token: int
    has_bias: bool
    windows: tuple[int | None, ...]
    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling, a layer's kind or an activation of others."""
        f = Fields(raw)
        hidden_size = f.size("hidden_size")
        num_layers = f.size("num_hidden_layers", most=MAX_LAYERS)
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        check_width(f, heads.head_dim, heads.head_dim, "head_dim", "num_attention_heads")
        is_scaled = f.inside("rope_scaling").raw or f.inside("rope_parameters").raw
        scaled = raw if is_scaled else {**raw, "rope_parameters": _ROPE}
        rope = RopeSpec.from_hf(scaled, heads.head_dim, theta=150000.0, max_positions=131072)
        window = f.size("sliding_window") if f.has("sliding_window") else None
        num_experts = f.size("num_local_experts", "num_experts", default=128, most=MAX_LAYERS)
        f.only("hidden_act", "silu")
        _check_constant(f, "swiglu_alpha", 1.702)
        _check_constant(f, "swiglu_limit", 7.0)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=num_layers,
            heads=heads,
            eps=f.number("rms_norm_eps", default=1e-5),
            activation="gpt_oss",
            max_positions=rope.reach,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            num_experts=num_experts,
            experts_per_token=f.size("num_experts_per_tok", default=4, most=num_experts),
            has_bias=f.flag("attention_bias", default=True),
            windows=layer_windows(f, num_layers, window, lambda layer: layer % 2 == 0),
            rope=rope,
        )


def _check_constant(fields: Fields, name: str, value: float) -> None:
    """Raises ConfigError: the activation, which has it built in, would be another one."""
    if fields.number(name, default=value) != value:
        raise ConfigError(f"{fields.source}: {name} is {fields.raw[name]}; supported: {value}")


class Model(CausalLM):
    """Pre-norm blocks of grouped-query attention and experts, both with biases.

    Experts are picked by the router's best scores and weighted by the softmax of these, which is
    the softmax of all scores, made to sum to one.
    """

    # The residual stream of the last layers leaves the range of float16.
    unsupported_dtypes = (torch.float16,)

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)

        def block(layer: int) -> PreNormBlock:
            return PreNormBlock(
                RMSNorm(c.hidden_size, c.eps),
                Attention(
                    c.hidden_size, c.heads, layer=layer, bias=c.has_bias, window=c.windows[layer],
                    rotary=rotary, has_sinks=True,
                ),
                RMSNorm(c.hidden_size, c.eps),
                MixtureOfExperts(
                    c.hidden_size, c.intermediate_size, c.num_experts,
                    kernels.Routing(c.experts_per_token), c.activation, bias=True, block=BLOCK,
                    router=Linear(c.hidden_size, c.num_experts, quantizable=False),
                ),
            )  # fmt: skip

        super().__init__(c, block, RMSNorm(c.hidden_size, c.eps))
