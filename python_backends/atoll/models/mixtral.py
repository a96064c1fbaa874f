"""Mixtral: Mistral's attention, and a mixture of experts in place of the MLP.

Source: config fields and layer names of transformers' ``MixtralForCausalLM``; Jiang et al. 2024.
Files hold one matrix per expert (w1 gate, w3 up, w2 down), or all experts stacked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from atoll.layers import Batch, Embedding, Linear, PagedAttention, RMSNorm, Rotary
from atoll.layers.batch import CacheSpec
from atoll.layers.linear import fused_qkv
from atoll.layers.moe import MixtureOfExperts
from atoll.layers.rotary import RopeSpec
from atoll.models.config_fields import activation, check_width, heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, WeightMap

WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    prefixes=("model.", ""),
    modules={
        "embed": "embed_tokens",
        "blocks.{i}.norm1": "layers.{i}.input_layernorm",
        "blocks.{i}.qkv": (
            "layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
            "layers.{i}.self_attn.v_proj",
        ),
        "blocks.{i}.out": "layers.{i}.self_attn.o_proj",
        "blocks.{i}.norm2": "layers.{i}.post_attention_layernorm",
        "blocks.{i}.moe.router": FirstOf(
            "layers.{i}.block_sparse_moe.gate", "layers.{i}.mlp.gate"
        ),
        "blocks.{i}.moe.experts.{e}.gate_up": FirstOf(
            ("layers.{i}.block_sparse_moe.experts.{e}.w1",
             "layers.{i}.block_sparse_moe.experts.{e}.w3"),
            "layers.{i}.mlp.experts.gate_up_proj[{e}]",
        ),
        "blocks.{i}.moe.experts.{e}.down": FirstOf(
            "layers.{i}.block_sparse_moe.experts.{e}.w2",
            "layers.{i}.mlp.experts.down_proj[{e}]",
        ),
        "norm": "norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Read from config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_experts: int
    experts_per_token: int
    eps: float
    activation: str
    max_positions: int
    sliding_window: int | None
    tie_word_embeddings: bool
    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling that is not known."""
        f = Fields(raw)
        hidden_size = f.size("hidden_size")
        num_heads, num_kv_heads, head_dim = heads(
            f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim"
        )
        check_width(f, head_dim, head_dim, "head_dim", "num_attention_heads")
        rope = RopeSpec.from_hf(raw, head_dim, theta=1e6)
        num_experts = f.size("num_local_experts", "num_experts", default=8, most=MAX_LAYERS)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            num_experts=num_experts,
            experts_per_token=f.size("num_experts_per_tok", default=2, most=num_experts),
            eps=f.number("rms_norm_eps", default=1e-5),
            activation=activation(f, "hidden_act", default="silu"),
            max_positions=rope.reach,
            sliding_window=f.size("sliding_window") if f.has("sliding_window") else None,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            rope=rope,
        )


class Block(nn.Module):
    """Pre-norm attention and experts."""

    def __init__(self, config: Config, layer: int, rotary: Rotary) -> None:
        super().__init__()
        c, width = config, config.num_heads * config.head_dim
        self.rotary = rotary
        self.norm1 = RMSNorm(c.hidden_size, c.eps)
        self.qkv = fused_qkv(c.hidden_size, c.num_heads, c.num_kv_heads, c.head_dim, bias=False)
        self.attention = PagedAttention(
            layer, c.num_heads, c.num_kv_heads, c.head_dim, window=c.sliding_window
        )
        self.out = Linear(width, c.hidden_size, bias=False)
        self.norm2 = RMSNorm(c.hidden_size, c.eps)
        self.moe = MixtureOfExperts(
            c.hidden_size, c.intermediate_size, c.num_experts, c.experts_per_token, c.activation
        )

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> tuple[Tensor, Tensor]:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        h, residual = self.norm1.add(x, residual)
        q, k, v = self.attention.split(self.qkv(h))
        h, residual = self.norm2.add(
            self.out(self.attention(q, k, v, batch, self.rotary(batch))), residual
        )
        return self.moe(h), residual


class Model(nn.Module):
    """``forward`` gives hidden states of the new tokens, ``logits`` the scores of chosen rows."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        rotary = Rotary(config.rope)
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, i, rotary) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.eps)
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
        return [CacheSpec(c.num_kv_heads, c.head_dim, c.sliding_window)] * c.num_layers
