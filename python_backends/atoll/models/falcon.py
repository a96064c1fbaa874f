"""Falcon 7B, 11B, 40B, 180B and RW: QKV fused by key-value group, rotary or ALiBi.

Source: config fields and layer names of transformers' ``FalconForCausalLM``; Almazrouei et al.
2023. First releases call themselves RefinedWebModel (7B) and RefinedWeb (40B), with n_head,
n_layer and n_head_kv.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.layers import MLP, Attention, CausalLM, DecoderConfig, LayerNorm
from atoll.layers.block import ParallelBlock, PreNormBlock
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import activation, check_width, read_heads
from atoll.weights.fused_qkv import grouped_qkv
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, Reorder, WeightMap
from atoll_kernels.attention import alibi_slopes

WEIGHTS = WeightMap(
    anchor="word_embeddings",
    complete=("h.",),
    prefixes=("transformer.", ""),
    modules={
        "embed": "word_embeddings",
        "blocks.{i}.norm1": FirstOf("h.{i}.ln_attn", "h.{i}.input_layernorm"),
        "blocks.{i}.norm2": FirstOf("h.{i}.ln_mlp", "h.{i}.post_attention_layernorm"),
        "blocks.{i}.attention.qkv": Reorder(
            "h.{i}.self_attention.query_key_value",
            lambda c: grouped_qkv(*c.heads),
        ),
        "blocks.{i}.attention.out": "h.{i}.self_attention.dense",
        "blocks.{i}.mlp.up": "h.{i}.mlp.dense_h_to_4h",
        "blocks.{i}.mlp.down": "h.{i}.mlp.dense_4h_to_h",
        "norm": "ln_f",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
    input_scales={"blocks.{i}.mlp.down": "h.{i}.mlp.act"},
)


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. ``num_norms`` is 1 where attention and MLP share the block's norm."""

    is_parallel: bool
    num_norms: int
    has_alibi: bool
    bias: bool
    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a residual order that no Falcon checkpoint uses."""
        f = Fields(raw)
        f.only("apply_residual_connection_post_layernorm", False)
        hidden_names, head_names = ("hidden_size", "n_embed"), ("num_attention_heads", "n_head")
        hidden_size = f.size(*hidden_names)
        is_grouped = f.flag(
            "new_decoder_architecture", default=raw.get("model_type") == "RefinedWeb", nullable=True
        )
        is_parallel = f.flag("parallel_attn", default=True, nullable=True)
        is_multi_query = f.flag("multi_query", default=True, nullable=True)
        kv_names = ("num_kv_heads", "n_head_kv")
        reads_kv = is_grouped or not is_multi_query
        heads = read_heads(f, hidden_size, hidden_names, head_names, kv_names if reads_kv else ())
        has_alibi = f.flag("alibi", default=False, nullable=True)
        if not has_alibi:
            check_width(f, heads.head_dim, heads.head_dim, *head_names)
        num_norms = 1 if is_parallel else 2
        if is_grouped:
            if not is_parallel:
                raise f.wrong("true where new_decoder_architecture is true", "parallel_attn")
            num_norms = f.count(
                "num_ln_in_parallel_attn", default=2, nullable=True, least=1, most=2
            )
        elif is_multi_query:
            heads = heads._replace(num_kv_heads=1)
        elif heads.num_kv_heads != heads.num_heads:
            raise f.wrong(f"{heads.num_heads}, as {f.name(*head_names)}", *kv_names)
        rope = RopeSpec.from_hf(raw, heads.head_dim)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("ffn_hidden_size", default=4 * hidden_size, nullable=True),
            num_layers=f.size("num_hidden_layers", "n_layer", most=MAX_LAYERS),
            heads=heads,
            eps=f.number("layer_norm_epsilon", default=1e-5),
            activation=activation(f, "activation", default="gelu"),
            max_positions=rope.reach,
            is_parallel=is_parallel,
            num_norms=num_norms,
            has_alibi=has_alibi,
            bias=f.flag("bias", default=False, nullable=True),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            rope=rope,
        )


class Model(CausalLM):
    """Attention and MLP over one norm or two of the same input, or one after the other (RW)."""

    def __init__(self, config: Config) -> None:
        c = config
        rotary = None if c.has_alibi else Rotary(c.rope)
        # Falcon adds ALiBi before it divides by sqrt(head_dim), so the division reaches the slopes.
        slopes = alibi_slopes(c.heads.num_heads) * c.heads.head_dim**-0.5 if c.has_alibi else None

        def block(layer: int) -> ParallelBlock | PreNormBlock:
            norm1 = LayerNorm(c.hidden_size, c.eps)
            attention = Attention(
                c.hidden_size, c.heads, layer=layer, bias=c.bias, rotary=rotary,
                alibi_slopes=slopes,
            )  # fmt: skip
            mlp = MLP(c.hidden_size, c.intermediate_size, c.activation, c.bias)
            if c.is_parallel and c.num_norms == 1:
                return ParallelBlock(norm1, attention, None, mlp)
            norm2 = LayerNorm(c.hidden_size, c.eps)
            order = ParallelBlock if c.is_parallel else PreNormBlock
            return order(norm1, attention, norm2, mlp)

        super().__init__(c, block, LayerNorm(c.hidden_size, c.eps))
