"""Qwen2, Qwen2.5 and Qwen3, dense and with experts.

Llama with biases of q, k and v (Qwen2), or with norms of queries and keys (Qwen3). Source: config
fields and layer names of transformers' ``Qwen2ForCausalLM``, ``Qwen3ForCausalLM``,
``Qwen2MoeForCausalLM`` (which has a shared expert) and ``Qwen3MoeForCausalLM``; Yang et al. 2024
and 2025.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.errors import ConfigError
from atoll.layers import Attention, CausalLM, DecoderConfig, GatedMLP, RMSNorm
from atoll.layers.block import PreNormBlock
from atoll.layers.moe import GatedExpert, MixtureOfExperts
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import (
    activation,
    check_equal_layers,
    layer_windows,
    read_heads,
    two_sided,
    whole_head_rope,
)
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
        "blocks.{i}.attention.q_norm": "layers.{i}.self_attn.q_norm",
        "blocks.{i}.attention.k_norm": "layers.{i}.self_attn.k_norm",
        "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
        "blocks.{i}.norm2": "layers.{i}.post_attention_layernorm",
        "blocks.{i}.mlp.gate_up": ("layers.{i}.mlp.gate_proj", "layers.{i}.mlp.up_proj"),
        "blocks.{i}.mlp.down": "layers.{i}.mlp.down_proj",
        "blocks.{i}.mlp.router": "layers.{i}.mlp.gate",
        "blocks.{i}.mlp.experts.{e}.gate_up": FirstOf(
            ("layers.{i}.mlp.experts.{e}.gate_proj", "layers.{i}.mlp.experts.{e}.up_proj"),
            "layers.{i}.mlp.experts.gate_up_proj[{e}]",
        ),
        "blocks.{i}.mlp.experts.{e}.down": FirstOf(
            "layers.{i}.mlp.experts.{e}.down_proj", "layers.{i}.mlp.experts.down_proj[{e}]",
        ),
        "blocks.{i}.mlp.shared.gate_up": (
            "layers.{i}.mlp.shared_expert.gate_proj", "layers.{i}.mlp.shared_expert.up_proj",
        ),
        "blocks.{i}.mlp.shared.down": "layers.{i}.mlp.shared_expert.down_proj",
        "blocks.{i}.mlp.shared.weight": "layers.{i}.mlp.shared_expert_gate",
        "norm": "norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip


@dataclass(frozen=True)
class Experts:
    """layers: whether a layer has experts. shared_size: of the shared expert, if there is one."""

    layers: tuple[bool, ...]
    num_experts: int
    routing: Routing
    size: int
    shared_size: int | None


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. windows: of each layer. experts: None for a dense model."""

    qkv_bias: bool
    out_bias: bool
    has_qk_norm: bool
    windows: tuple[int | None, ...]
    rope: RopeSpec
    experts: Experts | None

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling or a kind of attention that is not known."""
        f, kind = Fields(raw), str(raw.get("model_type"))
        hidden_size = f.size("hidden_size")
        num_layers = f.size("num_hidden_layers", most=MAX_LAYERS)
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        rope = whole_head_rope(f, heads)
        is_third = kind.startswith("qwen3")
        has_bias = is_third and f.flag("attention_bias", default=False)
        qkv_bias = f.flag("qkv_bias", default=True) if kind == "qwen2_moe" else not is_third
        is_causal = f.flag("is_causal", default=True)
        windows = _windows(f, kind, num_layers)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=num_layers,
            heads=heads,
            eps=f.number("rms_norm_eps", default=1e-6),
            activation=activation(f, "hidden_act", default="silu"),
            max_positions=rope.reach,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            qkv_bias=has_bias or qkv_bias,
            out_bias=has_bias,
            has_qk_norm=is_third,
            is_causal=is_causal,
            windows=windows if is_causal else two_sided(windows),
            rope=rope,
            experts=_experts(f, kind, num_layers) if kind.endswith("_moe") else None,
        )

    @property
    def num_experts(self) -> int:
        """Of a layer that has experts."""
        return 0 if self.experts is None else self.experts.num_experts


def _windows(f: Fields, kind: str, num_layers: int) -> tuple[int | None, ...]:
    is_used = f.flag("use_sliding_window", default=False)
    window = f.count("sliding_window") if is_used and f.has("sliding_window") else None
    if window == 0:
        raise ConfigError(f"{f.source}: use_sliding_window is true, and sliding_window is 0")
    if kind == "qwen3_moe":
        check_equal_layers(f, num_layers)
        return (window,) * num_layers
    first = f.count("max_window_layers", default=28)

    def is_windowed(layer: int) -> bool:
        return layer < first and layer % 2 == 0 if kind == "qwen2_moe" else layer >= first

    names = ("sliding_window", "use_sliding_window")
    return layer_windows(f, num_layers, window, is_windowed, names)


def _experts(f: Fields, kind: str, num_layers: int) -> Experts | None:
    is_second = kind == "qwen2_moe"
    count, top_k, size = (60, 4, 1408) if is_second else (128, 8, 768)
    num_experts = f.count("num_experts", "num_local_experts", default=count, most=MAX_LAYERS)
    if num_experts == 0:
        return None
    step = f.size("decoder_sparse_step", default=1)
    dense = f.counts("mlp_only_layers")
    shared_size = f.size("shared_expert_intermediate_size", default=5632) if is_second else None
    return Experts(
        layers=tuple((i + 1) % step == 0 and i not in dense for i in range(num_layers)),
        num_experts=num_experts,
        routing=Routing(
            f.size("num_experts_per_tok", default=top_k, most=num_experts),
            renormalize=f.flag("norm_topk_prob", default=False),
        ),
        size=f.size("moe_intermediate_size", default=size),
        shared_size=shared_size,
    )


class Model(CausalLM):
    """Pre-norm blocks of grouped-query attention and a gated MLP, or experts."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)

        def block(layer: int) -> PreNormBlock:
            norms = RMSNorm(c.heads.head_dim, c.eps), RMSNorm(c.heads.head_dim, c.eps)
            attention = Attention(
                c.hidden_size, c.heads, layer=layer, bias=c.qkv_bias, out_bias=c.out_bias,
                causal=c.is_causal, window=c.windows[layer], rotary=rotary,
                qk_norms=norms if c.has_qk_norm else None,
            )  # fmt: skip
            return PreNormBlock(
                RMSNorm(c.hidden_size, c.eps), attention, RMSNorm(c.hidden_size, c.eps),
                _feed_forward(c, layer),
            )  # fmt: skip

        super().__init__(c, block, RMSNorm(c.hidden_size, c.eps))


def _feed_forward(c: Config, layer: int) -> GatedMLP | MixtureOfExperts:
    e = c.experts
    if e is None or not e.layers[layer]:
        return GatedMLP(c.hidden_size, c.intermediate_size, c.activation)
    shared = None
    if e.shared_size is not None:
        shared = GatedExpert(c.hidden_size, e.shared_size, c.activation)
    return MixtureOfExperts(
        c.hidden_size, e.size, e.num_experts, e.routing, c.activation, shared=shared,
    )  # fmt: skip
