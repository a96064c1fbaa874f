"""MPT: ALiBi or learned positions, [Q; K; V], usually no biases, optional clipping and QK norms.

Source: config fields and layer names of MosaicML's llm-foundry (``MPTForCausalLM``), which
transformers reads in part only: it ignores alibi_bias_max, qk_ln, logit_scale, learned positions
and grouped heads. Storywriter has alibi_bias_max 16, replit-code-v1_5 grouped heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from atoll.errors import ConfigError
from atoll.layers import Batch, Embedding, LayerNorm, Linear, PagedAttention
from atoll.layers.batch import CacheSpec
from atoll.models.config_fields import heads
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
        "blocks.{i}.qkv": "blocks.{i}.attn.Wqkv",
        "blocks.{i}.q_norm": "blocks.{i}.attn.q_ln",
        "blocks.{i}.k_norm": "blocks.{i}.attn.k_ln",
        "blocks.{i}.out": "blocks.{i}.attn.out_proj",
        "blocks.{i}.norm2": "blocks.{i}.norm_2",
        "blocks.{i}.up": "blocks.{i}.ffn.up_proj",
        "blocks.{i}.down": "blocks.{i}.ffn.down_proj",
        "norm": "norm_f",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
    input_scales={"blocks.{i}.down": "blocks.{i}.ffn.act"},
)


# Keys of later llm-foundry versions, each of which changes the numbers.
_LATER_ATTENTION = ("attn_logit_softcapping", "attn_temperature_tuning", "reuse_kv_layer_idx")
_LATER = ("block_overrides", "final_logit_softcapping")


@dataclass(frozen=True)
class Config:
    """Read from config.json and its attn_config."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    eps: float
    scale: float
    alibi_bias_max: float | None
    clip_qkv: float | None
    has_qk_norm: bool
    logit_scale: float
    bias: bool
    tie_word_embeddings: bool

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for attention and norm kinds of later llm-foundry versions."""
        f = Fields(raw)
        attention = f.inside("attn_config")
        attention.only("prefix_lm", False)
        attention.only("rope", False)
        attention.only("sliding_window_size", -1)
        attention.only("qk_gn", False)
        for fields, names in ((attention, _LATER_ATTENTION), (f, _LATER)):
            for name in names:
                if fields.raw.get(name):
                    raise fields.wrong("null: it is not supported", name)
        mlp = f.inside("ffn_config")
        mlp.only("ffn_type", "mptmlp")
        mlp.inside("ffn_act_fn").only("name", "gelu")
        mlp.inside("ffn_act_fn").only("approximate", "none")
        f.only("norm_type", "low_precision_layernorm", "layernorm", "low_precision_LayerNorm")
        hidden_names, head_names = ("d_model", "hidden_size"), ("n_heads", "num_attention_heads")
        hidden_size = f.size(*hidden_names)
        num_heads, _, head_dim = heads(f, hidden_size, hidden_names, head_names)
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
            num_heads=num_heads,
            num_kv_heads=_num_kv_heads(attention, num_heads),
            head_dim=head_dim,
            max_positions=f.size("max_seq_len"),
            eps=f.number("layer_norm_epsilon", "norm_eps", default=1e-5),
            scale=attention.number("softmax_scale", default=head_dim**-0.5, nullable=True),
            alibi_bias_max=bias_max if has_alibi else None,
            clip_qkv=attention.number("clip_qkv") if attention.has("clip_qkv") else None,
            has_qk_norm=attention.flag("qk_ln", default=False),
            logit_scale=_logit_scale(f, hidden_size),
            bias=not f.flag("no_bias", default=True),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
        )


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


class Block(nn.Module):
    """Pre-norm attention and MLP; queries and keys may be clipped and normalised as wholes."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c, kv_width = config, config.num_kv_heads * config.head_dim
        self.clip_qkv, slopes = c.clip_qkv, None
        if c.alibi_bias_max is not None:
            slopes = alibi_slopes(c.num_heads, c.alibi_bias_max)
        self.norm1 = LayerNorm(c.hidden_size, c.eps, bias=c.bias)
        self.qkv = Linear(c.hidden_size, c.hidden_size + 2 * kv_width, bias=c.bias)
        self.q_norm = LayerNorm(c.hidden_size, c.eps, bias=c.bias) if c.has_qk_norm else None
        self.k_norm = LayerNorm(kv_width, c.eps, bias=c.bias) if c.has_qk_norm else None
        self.attention = PagedAttention(
            layer, c.num_heads, c.num_kv_heads, c.head_dim, scale=c.scale, alibi_slopes=slopes
        )
        self.out = Linear(c.hidden_size, c.hidden_size, bias=c.bias)
        self.norm2 = LayerNorm(c.hidden_size, c.eps, bias=c.bias)
        self.up = Linear(c.hidden_size, c.intermediate_size, bias=c.bias)
        self.down = Linear(c.intermediate_size, c.hidden_size, bias=c.bias)

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> tuple[Tensor, Tensor]:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        h, residual = self.norm1.add(x, residual)
        qkv = self.qkv(h)
        if self.clip_qkv:
            qkv.clamp_(-self.clip_qkv, self.clip_qkv)
        q, k, v = self.attention.split(qkv)
        if self.q_norm is not None and self.k_norm is not None:
            q = self.q_norm(q.flatten(1)).view_as(q)
            k = self.k_norm(k.flatten(1)).view_as(k)
        h, residual = self.norm2.add(self.out(self.attention(q, k, v, batch)), residual)
        return self.down(self.up(h, "gelu")), residual


class Model(nn.Module):
    """``forward`` gives hidden states of the new tokens, ``logits`` the scores of chosen rows."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = c = config
        self.embed = Embedding(c.vocab_size, c.hidden_size)
        learned = c.alibi_bias_max is None
        self.positions = Embedding(c.max_positions, c.hidden_size) if learned else None
        self.blocks = nn.ModuleList(Block(c, i) for i in range(c.num_layers))
        self.norm = LayerNorm(c.hidden_size, c.eps, bias=c.bias)
        self.lm_head = Linear(c.hidden_size, c.vocab_size, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden), normalised."""
        x, residual = self.embed(batch.input_ids), None
        if self.positions is not None:
            x = x + self.positions(batch.positions)
        for block in self.blocks:
            x, residual = block(x, residual, batch)
        out: Tensor = self.norm(x, residual)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (rows, hidden) -> (rows, vocab) float32."""
        out: Tensor = self.lm_head(hidden)
        return out.float() * self.config.logit_scale

    def cache_specs(self) -> list[CacheSpec]:
        """What a token needs in the KV cache."""
        c = self.config
        return [CacheSpec(c.num_kv_heads, c.head_dim)] * c.num_layers
