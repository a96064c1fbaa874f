"""JinaBERT v2: BERT's layout with symmetric ALiBi in place of positions, and a gated MLP.

Source: the published description of jina-embeddings-v2 (Günther et al. 2023) and the tensor names
of its checkpoints; ALiBi of Press et al. 2022 with ``-slope * abs(i - j)``; GEGLU of Shazeer 2020,
whose first half is activated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from atoll.errors import UnsupportedModel
from atoll.layers import Batch, Embedding, LayerNorm, Linear, PackedAttention
from atoll.models.config_fields import heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap
from atoll_kernels.attention import alibi_slopes

WEIGHTS = WeightMap(
    anchor="embeddings.word_embeddings",
    complete=("encoder.layer.",),
    prefixes=("", "bert."),
    modules={
        "words": "embeddings.word_embeddings",
        "token_types": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
        "blocks.{i}.qkv": (
            "encoder.layer.{i}.attention.self.query", "encoder.layer.{i}.attention.self.key",
            "encoder.layer.{i}.attention.self.value",
        ),
        "blocks.{i}.out": "encoder.layer.{i}.attention.output.dense",
        "blocks.{i}.norm1": "encoder.layer.{i}.attention.output.LayerNorm",
        "blocks.{i}.gate_up": "encoder.layer.{i}.mlp.gated_layers",
        "blocks.{i}.down": "encoder.layer.{i}.mlp.wo",
        "blocks.{i}.norm2": "encoder.layer.{i}.mlp.layernorm",
    },
)  # fmt: skip

# The repository whose code jina-embeddings-v2-base-code names.
_OTHER_LAYERS = "jina-bert-v2-qk-post-norm"
# feed_forward_type -> activation of the gate.
_GATES = {"geglu": "gelu", "reglu": "relu"}


@dataclass(frozen=True)
class Config:
    """Read from config.json; ``max_positions`` is a limit, not the size of a table."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_positions: int
    num_token_types: int
    eps: float
    activation: str
    tie_word_embeddings: bool

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for an MLP that is not gated, or positions other than ALiBi.

        Raises UnsupportedModel for jina-embeddings-v2-base-code, which has other layers.
        """
        f = Fields(raw)
        f.only("position_embedding_type", "alibi")
        if _OTHER_LAYERS in f"{raw.get('auto_map')} {raw.get('_name_or_path')}":
            raise UnsupportedModel(
                f"config.json names {_OTHER_LAYERS}: JinaBERT v2 of code, with norms on queries "
                "and keys, is not supported"
            )
        gate = f.only("feed_forward_type", "geglu", "reglu")
        hidden_size = f.size("hidden_size")
        limit = "model_max_length" if f.has("model_max_length") else "max_position_embeddings"
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            num_heads=heads(f, hidden_size).num_heads,
            max_positions=f.size(limit),
            num_token_types=f.size("type_vocab_size", default=2),
            eps=f.number("layer_norm_eps", default=1e-12),
            activation=_GATES[gate],
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
        )


class Block(nn.Module):
    """Attention and gated MLP, each followed by LayerNorm of the sum."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = config
        self.activation = c.activation
        self.qkv = Linear(c.hidden_size, 3 * c.hidden_size)
        self.attention = PackedAttention(
            c.num_heads, c.hidden_size // c.num_heads, alibi_slopes(c.num_heads)
        )
        self.out = Linear(c.hidden_size, c.hidden_size)
        self.norm1 = LayerNorm(c.hidden_size, c.eps)
        self.gate_up = Linear(c.hidden_size, 2 * c.intermediate_size, bias=False)
        self.down = Linear(c.intermediate_size, c.hidden_size)
        self.norm2 = LayerNorm(c.hidden_size, c.eps)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden)."""
        x = self.norm1(self.out(self.attention(self.qkv(x), batch)), x)
        gated = self.gate_up.gated(x, self.activation)
        out: Tensor = self.norm2(self.down(gated), x)
        return out


class Model(nn.Module):
    """Hidden states of packed tokens; pooling and heads are the caller's."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.words = Embedding(config.vocab_size, config.hidden_size)
        self.token_types = Embedding(config.num_token_types, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, config.eps)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))

    @property
    def max_length(self) -> int:
        """Tokens in the longest sequence."""
        return self.config.max_positions

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden)."""
        types = batch.token_type_ids
        is_single = types is None or self.config.num_token_types == 1
        segments = self.token_types.weight[0] if is_single else self.token_types(types)
        x: Tensor = self.norm(self.words(batch.input_ids) + segments)
        for block in self.blocks:
            x = block(x, batch)
        return x
