"""MPT: ALiBi or learned positions, [Q; K; V], usually no biases, optional clipping and QK norms.

Source: config fields and layer names of MosaicML's llm-foundry (``MPTForCausalLM``), which
transformers reads in part only: it ignores alibi_bias_max, qk_ln, logit_scale, learned positions
and grouped heads. Storywriter has alibi_bias_max 16, replit-code-v1_5 grouped heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from atoll.errors import ConfigError
from atoll.layers import MLP, Attention, CausalLM, DecoderConfig, Embedding, LayerNorm
from atoll.layers.block import PreNormBlock
from atoll.layers.qk_norm import wide_norms
from atoll.models.config_fields import read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap
from atoll_kernels.attention import alibi_slopes

WEIGHTS = WeightMap(
    anchor="wte",
    complete=("blocks.",),
    prefixes=("transformer.", ""),
    modules={
        "embed": "wte",
        "positions": "wpe",
        "blocks.{i}.norm1": "blocks.{i}.norm_1",
        "blocks.{i}.attention.qkv": "blocks.{i}.attn.Wqkv",
        "blocks.{i}.attention.q_norm": "blocks.{i}.attn.q_ln",
        "blocks.{i}.attention.k_norm": "blocks.{i}.attn.k_ln",
        "blocks.{i}.attention.out": "blocks.{i}.attn.out_proj",
        "blocks.{i}.norm2": "blocks.{i}.norm_2",
        "blocks.{i}.mlp.up": "blocks.{i}.ffn.up_proj",
        "blocks.{i}.mlp.down": "blocks.{i}.ffn.down_proj",
        "norm": "norm_f",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
    input_scales={"blocks.{i}.mlp.down": "blocks.{i}.ffn.act"},
)


# Keys of later llm-foundry versions, each of which changes the numbers.
_LATER_ATTENTION = ("attn_logit_softcapping", "attn_temperature_tuning", "reuse_kv_layer_idx")
_LATER = ("block_overrides", "final_logit_softcapping")


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json and its attn_config."""

    scale: float
    alibi_bias_max: float | None
    clip_qkv: float | None
    has_qk_norm: bool
    logit_scale: float
    bias: bool

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for attention and norm kinds of later llm-foundry versions."""
        f = Fields(raw)
        attention = f.inside("attn_config")
        _check_kinds(f, attention)
        hidden_names, head_names = ("d_model", "hidden_size"), ("n_heads", "num_attention_heads")
        hidden_size = f.size(*hidden_names)
        heads = read_heads(f, hidden_size, hidden_names, head_names)
        has_alibi = attention.flag("alibi", default=True)
        has_positions = f.flag("learned_pos_emb", default=True)
        if not (has_alibi or has_positions):
            raise ConfigError("config.json: attn_config.alibi and learned_pos_emb are both false")
        bias_max = attention.number("alibi_bias_max", default=8.0)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=int(f.number("expansion_ratio", default=4.0) * hidden_size),
            num_layers=f.size("n_layers", "num_hidden_layers", most=MAX_LAYERS),
            heads=heads._replace(num_kv_heads=_num_kv_heads(attention, heads.num_heads)),
            max_positions=f.size("max_seq_len"),
            eps=f.number("layer_norm_epsilon", "norm_eps", default=1e-5),
            activation="gelu",
            scale=attention.number("softmax_scale", default=heads.head_dim**-0.5, nullable=True),
            alibi_bias_max=bias_max if has_alibi else None,
            clip_qkv=attention.number("clip_qkv") if attention.has("clip_qkv") else None,
            has_qk_norm=attention.flag("qk_ln", default=False),
            logit_scale=_logit_scale(f, hidden_size),
            bias=not f.flag("no_bias", default=True),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
        )


def _check_kinds(fields: Fields, attention: Fields) -> None:
    """Raises ConfigError: a kind of attention, norm or MLP that is not known."""
    attention.only("prefix_lm", False)
    attention.only("rope", False)
    attention.only("sliding_window_size", -1)
    attention.only("qk_gn", False)
    for place, names in ((attention, _LATER_ATTENTION), (fields, _LATER)):
        for name in names:
            if place.raw.get(name):
                raise place.wrong("null: it is not supported", name)
    mlp = fields.inside("ffn_config")
    mlp.only("ffn_type", "mptmlp")
    mlp.inside("ffn_act_fn").only("name", "gelu")
    mlp.inside("ffn_act_fn").only("approximate", "none")
    norms = ("low_precision_layernorm", "layernorm", "low_precision_LayerNorm")
    fields.only("norm_type", *norms)


def _logit_scale(fields: Fields, hidden_size: int) -> float:
    if fields.raw.get("logit_scale") == "inv_sqrt_d_model":
        return float(hidden_size**-0.5)
    return fields.number("logit_scale", default=1.0, nullable=True)


def _num_kv_heads(attention: Fields, num_heads: int) -> int:
    kind = attention.only(
        "attn_type", "multihead_attention", "multiquery_attention", "grouped_query_attention"
    )
    if kind != "grouped_query_attention":
        return 1 if kind == "multiquery_attention" else num_heads
    num_kv_heads = attention.size("kv_n_heads")
    if num_heads % num_kv_heads:
        raise attention.wrong(f"a divisor of n_heads, {num_heads}", "kv_n_heads")
    return num_kv_heads


class ClippedAttention(Attention):
    """Attention whose projections are clipped."""

    clip_qkv: float | None = None

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[q; k; v] rows as (tokens, heads, head_dim) views; mutates them."""
        if self.clip_qkv:
            qkv.clamp_(-self.clip_qkv, self.clip_qkv)
        return super().split(qkv)


class Model(CausalLM):
    """Pre-norm blocks; learned positions where there is no ALiBi."""

    def __init__(self, config: Config) -> None:
        c, slopes = config, None
        if c.alibi_bias_max is not None:
            slopes = alibi_slopes(c.heads.num_heads, c.alibi_bias_max)

        def norm(width: int = c.hidden_size) -> LayerNorm:
            return LayerNorm(width, c.eps, bias=c.bias)

        def block(layer: int) -> PreNormBlock:
            qk_norms = wide_norms(*c.heads, c.eps, is_centred=True, has_bias=c.bias)
            attention = ClippedAttention(
                c.hidden_size, c.heads, layer=layer, bias=c.bias, scale=c.scale,
                alibi_slopes=slopes, qk_norms=qk_norms if c.has_qk_norm else None,
            )  # fmt: skip
            attention.clip_qkv = c.clip_qkv
            mlp = MLP(c.hidden_size, c.intermediate_size, c.activation, c.bias)
            return PreNormBlock(norm(), attention, norm(), mlp)

        positions = Embedding(c.max_positions, c.hidden_size) if slopes is None else None
        super().__init__(c, block, norm(), positions=positions, logit_scale=c.logit_scale)
