"""OPT and Galactica: learned positions offset by two, separate QKV, ReLU or GELU.

Source: config fields and layer names of transformers' ``OPTForCausalLM``; Zhang et al. 2022,
Taylor et al. 2022 (Galactica). OPT-350m normalises after the sum and projects its embeddings in and
out; large Galactica has no biases and norms without weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from atoll.layers import Batch, Embedding, LayerNorm, Linear, PagedAttention
from atoll.layers.batch import CacheSpec
from atoll.models.config_fields import activation, heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap

WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    prefixes=("model.decoder.", "decoder."),
    modules={
        "embed": "embed_tokens",
        "positions": "embed_positions",
        "project_in": "project_in",
        "project_out": "project_out",
        "blocks.{i}.norm1": "layers.{i}.self_attn_layer_norm",
        "blocks.{i}.qkv": (
            "layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
            "layers.{i}.self_attn.v_proj",
        ),
        "blocks.{i}.out": "layers.{i}.self_attn.out_proj",
        "blocks.{i}.norm2": "layers.{i}.final_layer_norm",
        "blocks.{i}.up": "layers.{i}.fc1",
        "blocks.{i}.down": "layers.{i}.fc2",
        "norm": "final_layer_norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip

# Rows 0 and 1 of the position table are never used: ids count from the padding id on.
POSITION_OFFSET = 2


@dataclass(frozen=True)
class Config:
    """Read from config.json; ``embed_size`` differs from ``hidden_size`` in OPT-350m."""

    vocab_size: int
    hidden_size: int
    embed_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    activation: str
    max_positions: int
    is_pre_norm: bool
    has_final_norm: bool
    bias: bool
    affine: bool
    tie_word_embeddings: bool

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        f = Fields(raw)
        f.only("learned_embeddings", True)
        hidden_size = f.size("hidden_size")
        is_pre_norm = f.flag("do_layer_norm_before", default=True)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            embed_size=f.size("word_embed_proj_dim", default=hidden_size, nullable=True),
            intermediate_size=f.size("ffn_dim"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            num_heads=heads(f, hidden_size).num_heads,
            activation=activation(f, "activation_function", default="relu"),
            max_positions=f.size("max_position_embeddings"),
            is_pre_norm=is_pre_norm,
            has_final_norm=is_pre_norm and not f.flag("_remove_final_layer_norm", default=False),
            bias=f.flag("enable_bias", default=True),
            affine=f.flag("layer_norm_elementwise_affine", default=True),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
        )


class Block(nn.Module):
    """Attention and MLP; the norms stand before them, or after the sums (350m)."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c, head_dim = config, config.hidden_size // config.num_heads
        self.activation, self.is_pre_norm = c.activation, c.is_pre_norm
        self.norm1 = LayerNorm(c.hidden_size, 1e-5, affine=c.affine)
        self.qkv = Linear(c.hidden_size, 3 * c.hidden_size, bias=c.bias)
        self.attention = PagedAttention(layer, c.num_heads, c.num_heads, head_dim)
        self.out = Linear(c.hidden_size, c.hidden_size, bias=c.bias)
        self.norm2 = LayerNorm(c.hidden_size, 1e-5, affine=c.affine)
        self.up = Linear(c.hidden_size, c.intermediate_size, bias=c.bias)
        self.down = Linear(c.intermediate_size, c.hidden_size, bias=c.bias)

    def forward(
        self, x: Tensor, residual: Tensor | None, batch: Batch
    ) -> tuple[Tensor, Tensor | None]:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        if self.is_pre_norm:
            h, residual = self.norm1.add(x, residual)
            h, residual = self.norm2.add(self._attend(h, batch), residual)
            return self.down(self.up(h, self.activation)), residual
        x = self.norm1(self._attend(x, batch), x)
        return self.norm2(self.down(self.up(x, self.activation)), x), None

    def _attend(self, h: Tensor, batch: Batch) -> Tensor:
        q, k, v = self.attention.split(self.qkv(h))
        out: Tensor = self.out(self.attention(q, k, v, batch))
        return out


class Model(nn.Module):
    """``forward`` gives hidden states of the new tokens, ``logits`` the scores of chosen rows."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = c = config
        self.embed = Embedding(c.vocab_size, c.embed_size)
        self.positions = Embedding(c.max_positions + POSITION_OFFSET, c.hidden_size)
        projects = c.embed_size != c.hidden_size
        self.project_in = Linear(c.embed_size, c.hidden_size, bias=False) if projects else None
        self.project_out = Linear(c.hidden_size, c.embed_size, bias=False) if projects else None
        self.blocks = nn.ModuleList(Block(c, i) for i in range(c.num_layers))
        self.norm = LayerNorm(c.hidden_size, 1e-5, affine=c.affine) if c.has_final_norm else None
        self.lm_head = Linear(c.embed_size, c.vocab_size, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden), normalised where the model has a final norm."""
        x: Tensor = self.embed(batch.input_ids)
        x, residual = x if self.project_in is None else self.project_in(x), None
        x = x + self.positions(batch.positions + POSITION_OFFSET)
        for block in self.blocks:
            x, residual = block(x, residual, batch)
        if self.norm is not None:
            x = self.norm(x, residual)
        elif residual is not None:
            x = x + residual
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (rows, hidden) -> (rows, vocab) float32."""
        hidden = hidden if self.project_out is None else self.project_out(hidden)
        out: Tensor = self.lm_head(hidden)
        return out.float()

    def cache_specs(self) -> list[CacheSpec]:
        """What a token needs in the KV cache."""
        c = self.config
        return [CacheSpec(c.num_heads, c.hidden_size // c.num_heads)] * c.num_layers
