"""Phi-1, 1.5 and 2: one norm for attention and MLP in parallel, partial rotary, biases everywhere.

Source: config fields and layer names of transformers' ``PhiForCausalLM``; Li et al. 2023. The
first releases have layouts of their own: phi-msft (``transformer.h.N.mixer.Wqkv``), and before it
mixformer-sequential, where the embedding, the blocks and the head are numbered as one list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from atoll.layers import Batch, Embedding, LayerNorm, Linear, PagedAttention, Rotary
from atoll.layers.batch import CacheSpec
from atoll.layers.linear import fused_qkv
from atoll.layers.rotary import RopeSpec
from atoll.models.config_fields import activation, check_width, heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap


def _mixer(block: str, embed: str, head: str) -> WeightMap:
    return WeightMap(
        anchor=embed,
        complete=(block.partition("{")[0],),
        modules={
            "embed": embed,
            "blocks.{i}.norm": f"{block}.ln",
            "blocks.{i}.qkv": f"{block}.mixer.Wqkv",
            "blocks.{i}.out": f"{block}.mixer.out_proj",
            "blocks.{i}.up": f"{block}.mlp.fc1",
            "blocks.{i}.down": f"{block}.mlp.fc2",
            "norm": f"{head}.ln",
            "lm_head": f"{head}.linear",
        },
    )


WEIGHTS = (
    WeightMap(
        anchor="embed_tokens",
        complete=("layers.",),
        prefixes=("model.", ""),
        modules={
            "embed": "embed_tokens",
            "blocks.{i}.norm": "layers.{i}.input_layernorm",
            "blocks.{i}.qkv": (
                "layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
                "layers.{i}.self_attn.v_proj",
            ),
            "blocks.{i}.q_norm": "layers.{i}.self_attn.q_layernorm",
            "blocks.{i}.k_norm": "layers.{i}.self_attn.k_layernorm",
            "blocks.{i}.out": "layers.{i}.self_attn.dense",
            "blocks.{i}.up": "layers.{i}.mlp.fc1",
            "blocks.{i}.down": "layers.{i}.mlp.fc2",
            "norm": "final_layernorm",
            "lm_head": "/lm_head",
        },
        tied={"lm_head": "embed"},
    ),
    _mixer("transformer.h.{i}", "transformer.embd.wte", "lm_head"),
    _mixer("layers.{i+1}", "layers.0.wte", "layers.{num_layers+1}"),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Read from config.json, of transformers or of the first releases."""

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
    has_qk_norm: bool
    tie_word_embeddings: bool
    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling that is not known."""
        f = Fields(raw)
        hidden_names, head_names = ("hidden_size", "n_embd"), ("num_attention_heads", "n_head")
        hidden_size = f.size(*hidden_names)
        num_heads, num_kv_heads, head_dim = heads(
            f, hidden_size, hidden_names, head_names, ("num_key_value_heads", "n_head_kv")
        )
        share = RopeSpec.partial(raw, "partial_rotary_factor", default=0.5)
        width = f.size("rotary_dim", default=max(1, int(head_dim * share)), nullable=True)
        # The first releases rotate 32 features of a head, and all of a head that has fewer.
        width = min(width, head_dim) if f.has("rotary_dim") else width
        check_width(f, width, head_dim, "rotary_dim", "partial_rotary_factor")
        positions = f.size("n_positions", default=2048)
        rope = RopeSpec.from_hf(raw, width, max_positions=positions, is_partial=True)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size(
                "intermediate_size", "n_inner", default=4 * hidden_size, nullable=True
            ),
            num_layers=f.size("num_hidden_layers", "n_layer", most=MAX_LAYERS),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            eps=f.number("layer_norm_eps", "layer_norm_epsilon", default=1e-5),
            activation=activation(f, "hidden_act", "activation_function", default="gelu_new"),
            max_positions=rope.reach,
            has_qk_norm=f.flag("qk_layernorm", default=False),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            rope=rope,
        )


class Block(nn.Module):
    """Attention and MLP of the same normalised input; queries and keys may be, head by head."""

    def __init__(self, config: Config, layer: int, rotary: Rotary) -> None:
        super().__init__()
        c = config
        self.activation, self.rotary = c.activation, rotary
        self.norm = LayerNorm(c.hidden_size, c.eps)
        self.qkv = fused_qkv(c.hidden_size, c.num_heads, c.num_kv_heads, c.head_dim)
        self.q_norm = LayerNorm(c.head_dim, c.eps) if c.has_qk_norm else None
        self.k_norm = LayerNorm(c.head_dim, c.eps) if c.has_qk_norm else None
        self.attention = PagedAttention(layer, c.num_heads, c.num_kv_heads, c.head_dim)
        self.out = Linear(c.hidden_size, c.hidden_size)
        self.up = Linear(c.hidden_size, c.intermediate_size)
        self.down = Linear(c.intermediate_size, c.hidden_size)

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> tuple[Tensor, Tensor]:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        h, residual = self.norm.add(x, residual)
        q, k, v = self.attention.split(self.qkv(h))
        if self.q_norm is not None and self.k_norm is not None:
            q = self.q_norm(q.flatten(0, 1)).view_as(q)
            k = self.k_norm(k.flatten(0, 1)).view_as(k)
        attended = self.out(self.attention(q, k, v, batch, self.rotary(batch)))
        return attended + self.down(self.up(h, self.activation)), residual


class Model(nn.Module):
    """``forward`` gives hidden states of the new tokens, ``logits`` the scores of chosen rows."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        rotary = Rotary(config.rope)
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, i, rotary) for i in range(config.num_layers))
        self.norm = LayerNorm(config.hidden_size, config.eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)

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
