"""GPTBigCode: StarCoder, and SantaCoder in its own layout or converted; learned positions.

Source: config fields and layer names of transformers' ``GPTBigCodeForCausalLM``; Li et al. 2023,
Ben Allal et al. 2023 (SantaCoder). The repository bigcode/santacoder calls itself gpt2, stores
its matrices transposed (GPT-2's Conv1D) and splits the attention projection in two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atoll.layers import MLP, Attention, CausalLM, DecoderConfig, Heads, LayerNorm
from atoll.layers.block import PreNormBlock
from atoll.layers.embedding import Embedding
from atoll.layers.linear import Linear
from atoll.models.config_fields import activation, read_heads
from atoll.weights.fused_qkv import grouped_qkv
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, Reorder, Source, Transposed, WeightMap


def _rows(config: "Config") -> Tensor:
    """Multi-query files hold [q; k; v] as we do; the others interleave the heads."""
    if config.heads.num_kv_heads == 1:
        return torch.arange((config.heads.num_heads + 2) * config.heads.head_dim)
    return grouped_qkv(*config.heads)


def _matrix(source: Source) -> Source:
    return Transposed(source, when=lambda config: config.is_conv1d)


WEIGHTS = WeightMap(
    anchor="wte",
    complete=("h.",),
    buffers=(".attn.bias",),
    prefixes=("transformer.", ""),
    modules={
        "embed": "wte",
        "positions": "wpe",
        "blocks.{i}.norm1": "h.{i}.ln_1",
        "blocks.{i}.attention.qkv": FirstOf(
            Reorder(_matrix("h.{i}.attn.c_attn"), _rows),
            _matrix(("h.{i}.attn.q_attn", "h.{i}.attn.kv_attn")),
        ),
        "blocks.{i}.attention.out": _matrix("h.{i}.attn.c_proj"),
        "blocks.{i}.norm2": "h.{i}.ln_2",
        "blocks.{i}.mlp.up": _matrix("h.{i}.mlp.c_fc"),
        "blocks.{i}.mlp.down": _matrix("h.{i}.mlp.c_proj"),
        "norm": "ln_f",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
    input_scales={"blocks.{i}.mlp.down": "h.{i}.mlp.act"},
)


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json; ``is_conv1d`` is SantaCoder's own layout."""

    is_conv1d: bool

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for GPT-2 attention options that no BigCode checkpoint uses."""
        f = Fields(raw)
        f.only("scale_attn_weights", True)
        f.only("scale_attn_by_inverse_layer_idx", False)
        f.only("add_cross_attention", False)
        is_conv1d = raw.get("model_type") == "gpt2"
        head_type = f.only("attention_head_type", "multiquery", "multihead")
        is_multi_query = f.flag("multi_query", default=True)
        is_multi_query = head_type == "multiquery" if is_conv1d else is_multi_query
        hidden_names = ("n_embd", "hidden_size")
        hidden_size = f.size(*hidden_names)
        heads = read_heads(f, hidden_size, hidden_names, ("n_head", "num_attention_heads"))
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("n_inner", default=4 * hidden_size, nullable=True),
            num_layers=f.size("n_layer", "num_hidden_layers", most=MAX_LAYERS),
            heads=heads._replace(num_kv_heads=1) if is_multi_query else heads,
            eps=f.number("layer_norm_epsilon", default=1e-5),
            activation=activation(f, "activation_function", default="gelu_pytorch_tanh"),
            max_positions=f.size("n_positions", "max_position_embeddings"),
            is_conv1d=is_conv1d,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
        )


class QueryAndKeyValue(Attention):
    """Attention whose projection may be stored in two: queries, and keys with values."""

    def __init__(self, hidden_size: int, heads: Heads, layer: int) -> None:
        super().__init__(hidden_size, heads, layer=layer)
        rows = (heads.width, 2 * heads.kv_width)
        self.qkv = Linear(hidden_size, self.qkv.outputs, rows=rows)


class Model(CausalLM):
    """Pre-norm blocks; learned positions."""

    def __init__(self, config: Config) -> None:
        c = config

        def block(layer: int) -> PreNormBlock:
            return PreNormBlock(
                LayerNorm(c.hidden_size, c.eps),
                QueryAndKeyValue(c.hidden_size, c.heads, layer),
                LayerNorm(c.hidden_size, c.eps),
                MLP(c.hidden_size, c.intermediate_size, c.activation),
            )

        positions = Embedding(c.max_positions, c.hidden_size)
        super().__init__(c, block, LayerNorm(c.hidden_size, c.eps), positions=positions)
