"""Falcon 7B, 11B, 40B, 180B and RW: QKV fused by key-value group, rotary or ALiBi.

Source: config fields and layer names of transformers' ``FalconForCausalLM``; Almazrouei et al.
2023. First releases call themselves RefinedWebModel (7B) and RefinedWeb (40B), with n_head,
n_layer and n_head_kv.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from atoll.layers import Batch, Embedding, LayerNorm, Linear, PagedAttention, Rotary
from atoll.layers.batch import CacheSpec
from atoll.layers.rotary import RopeSpec
from atoll.models.config_fields import activation, check_width, heads
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
        "blocks.{i}.qkv": Reorder(
            "h.{i}.self_attention.query_key_value",
            lambda c: grouped_qkv(c.num_heads, c.num_kv_heads, c.head_dim),
        ),
        "blocks.{i}.out": "h.{i}.self_attention.dense",
        "blocks.{i}.up": "h.{i}.mlp.dense_h_to_4h",
        "blocks.{i}.down": "h.{i}.mlp.dense_4h_to_h",
        "norm": "ln_f",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
    input_scales={"blocks.{i}.down": "h.{i}.mlp.act"},
)


@dataclass(frozen=True)
class Config:
    """Read from config.json. ``num_norms`` is 1 where attention and MLP share the block's norm."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    activation: str
    max_positions: int
    is_parallel: bool
    num_norms: int
    has_alibi: bool
    bias: bool
    tie_word_embeddings: bool
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
        num_heads, num_kv_heads, head_dim = heads(
            f, hidden_size, hidden_names, head_names, kv_names if reads_kv else ()
        )
        has_alibi = f.flag("alibi", default=False, nullable=True)
        if not has_alibi:
            check_width(f, head_dim, head_dim, *head_names)
        num_norms = 1 if is_parallel else 2
        if is_grouped:
            if not is_parallel:
                raise f.wrong("true where new_decoder_architecture is true", "parallel_attn")
            num_norms = f.count(
                "num_ln_in_parallel_attn", default=2, nullable=True, least=1, most=2
            )
        elif is_multi_query:
            num_kv_heads = 1
        elif num_kv_heads != num_heads:
            raise f.wrong(f"{num_heads}, as {f.name(*head_names)}", *kv_names)
        rope = RopeSpec.from_hf(raw, head_dim)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("ffn_hidden_size", default=4 * hidden_size, nullable=True),
            num_layers=f.size("num_hidden_layers", "n_layer", most=MAX_LAYERS),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
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


class Block(nn.Module):
    """Attention and MLP over one norm or two of the same input, or one after the other (RW)."""

    def __init__(self, config: Config, layer: int, rotary: Rotary | None) -> None:
        super().__init__()
        c = config
        self.activation, self.is_parallel, self.rotary = c.activation, c.is_parallel, rotary
        # Falcon adds ALiBi before it divides by sqrt(head_dim), so the division reaches the slopes.
        slopes = alibi_slopes(c.num_heads) * c.head_dim**-0.5 if c.has_alibi else None
        self.norm1 = LayerNorm(c.hidden_size, c.eps)
        width, kv_width = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        self.qkv = Linear(c.hidden_size, width + 2 * kv_width, bias=c.bias)
        self.attention = PagedAttention(
            layer, c.num_heads, c.num_kv_heads, c.head_dim, alibi_slopes=slopes
        )
        self.out = Linear(width, c.hidden_size, bias=c.bias)
        self.norm2 = LayerNorm(c.hidden_size, c.eps) if c.num_norms == 2 else None
        self.up = Linear(c.hidden_size, c.intermediate_size, bias=c.bias)
        self.down = Linear(c.intermediate_size, c.hidden_size, bias=c.bias)

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> tuple[Tensor, Tensor]:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        h, residual = self.norm1.add(x, residual)
        q, k, v = self.attention.split(self.qkv(h))
        rotation = None if self.rotary is None else self.rotary(batch)
        attended = self.out(self.attention(q, k, v, batch, rotation))
        if self.is_parallel:
            h = h if self.norm2 is None else self.norm2(residual)
            return attended + self.down(self.up(h, self.activation)), residual
        assert self.norm2 is not None
        h, residual = self.norm2.add(attended, residual)
        return self.down(self.up(h, self.activation)), residual


class Model(nn.Module):
    """``forward`` gives hidden states of the new tokens, ``logits`` the scores of chosen rows."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        rotary = None if config.has_alibi else Rotary(config.rope)
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, i, rotary) for i in range(config.num_layers))
        self.norm = LayerNorm(config.hidden_size, config.eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden), normalised."""
        x, residual = self.embed(batch.input_ids), None
        for block in self.blocks:
            x, residual = block(x, residual, batch)
        out: Tensor = self.norm(x, residual)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (rows, hidden) -> (rows, vocab) float32."""
        out: Tensor = self.lm_head(hidden)
        return out.float()

    def cache_specs(self) -> list[CacheSpec]:
        """What a token needs in the KV cache."""
        c = self.config
        return [CacheSpec(c.num_kv_heads, c.head_dim)] * c.num_layers
