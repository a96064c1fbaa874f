"""T5, T5 v1.1, FLAN-T5 and mT5: encoder-decoder, relative position bias, RMSNorm, no biases.

Source: config fields and layer names of transformers' ``T5ForConditionalGeneration``; Raffel et
al. 2020. The original shares the embedding with the head and scales by d_model^-0.5; v1.1 has a
gated MLP and a head of its own.

``encode`` runs once per request and leaves every decoder layer's cross-attention keys and values
in the cache; ``forward`` then continues the decoder like any other model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atoll.errors import ConfigError
from atoll.layers import Embedding, Linear, PackedAttention, PagedAttention, RMSNorm
from atoll.layers.batch import Batch, CacheSpec
from atoll.layers.relative import RelativeBias
from atoll.models.config_fields import known_activation
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, Source, WeightMap


def _stack(ours: str, theirs: str, mlp: int) -> dict[str, Source]:
    """A stack's table; the MLP is the block's last sublayer."""
    block, last = f"{theirs}.block.{{i}}.layer", f"{theirs}.block.{{i}}.layer.{mlp}"
    return {
        f"{ours}.{{i}}.norm1": f"{block}.0.layer_norm",
        f"{ours}.{{i}}.qkv": tuple(f"{block}.0.SelfAttention.{x}" for x in "qkv"),
        f"{ours}.{{i}}.out": f"{block}.0.SelfAttention.o",
        f"{ours}.{{i}}.mlp_norm": f"{last}.layer_norm",
        f"{ours}.{{i}}.up": FirstOf(
            (f"{last}.DenseReluDense.wi_0", f"{last}.DenseReluDense.wi_1"),
            f"{last}.DenseReluDense.wi",
        ),
        f"{ours}.{{i}}.down": f"{last}.DenseReluDense.wo",
        f"{ours}_norm": f"{theirs}.final_layer_norm",
        f"{ours}_bias": f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias",
    }


WEIGHTS = WeightMap(
    anchor="encoder.final_layer_norm",
    complete=("encoder.block.", "decoder.block."),
    # The first releases have one that was never used.
    buffers=(".EncDecAttention.relative_attention_bias.weight",),
    modules={
        "embed": FirstOf("shared", "encoder.embed_tokens", "decoder.embed_tokens"),
        **_stack("encoder", "encoder", 1),
        **_stack("decoder", "decoder", 2),
        "decoder.{i}.cross_norm": "decoder.block.{i}.layer.1.layer_norm",
        "decoder.{i}.cross_q": "decoder.block.{i}.layer.1.EncDecAttention.q",
        "decoder.{i}.cross_kv": (
            "decoder.block.{i}.layer.1.EncDecAttention.k",
            "decoder.block.{i}.layer.1.EncDecAttention.v",
        ),
        "decoder.{i}.cross_out": "decoder.block.{i}.layer.1.EncDecAttention.o",
        "lm_head": "lm_head",
    },
    tied={"lm_head": "embed"},
)


# The bias of every distance up to it is held in a table.
_MAX_DISTANCE = 1 << 20


@dataclass(frozen=True)
class Config:
    """Read from config.json; heads may be wider or narrower than hidden_size / num_heads."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_encoder_layers: int
    num_layers: int
    num_heads: int
    head_dim: int
    eps: float
    activation: str
    is_gated: bool
    num_buckets: int
    max_distance: int
    max_positions: int
    decoder_start_token_id: int
    scales_output: bool
    tie_word_embeddings: bool

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        f = Fields(raw)
        kind = f.text("feed_forward_proj", default="relu")
        prefix, _, last = kind.rpartition("-")
        if prefix not in ("", "gated"):
            raise f.wrong("an activation, or gated- and an activation", "feed_forward_proj")
        named = "gelu_new" if kind == "gated-gelu" else last
        is_tied = f.flag("tie_word_embeddings", default=True)
        # transformers 5 calls mT5 tied, whose head is its own, and scales nothing.
        is_mt5 = raw.get("model_type") == "mt5"
        vocab_size, num_layers = f.size("vocab_size"), f.size("num_layers", most=MAX_LAYERS)
        num_buckets = f.size("relative_attention_num_buckets", default=32)
        distance = f.size("relative_attention_max_distance", default=128, most=_MAX_DISTANCE)
        if num_buckets % 4 or distance <= num_buckets // 2:
            raise ConfigError(
                f"config.json: relative_attention_num_buckets is {num_buckets} and "
                f"relative_attention_max_distance is {distance}; expected a multiple of four, and "
                "more than half of it"
            )
        start = "decoder_start_token_id" if f.has("decoder_start_token_id") else "pad_token_id"
        return cls(
            vocab_size=vocab_size,
            hidden_size=f.size("d_model", "hidden_size"),
            intermediate_size=f.size("d_ff"),
            num_encoder_layers=num_layers,
            num_layers=f.size(
                "num_decoder_layers", default=num_layers, nullable=True, most=MAX_LAYERS
            ),
            num_heads=f.size("num_heads", "num_attention_heads"),
            head_dim=f.size("d_kv"),
            eps=f.number("layer_norm_epsilon", default=1e-6),
            activation=known_activation(f, named, "feed_forward_proj"),
            is_gated=prefix == "gated",
            num_buckets=num_buckets,
            max_distance=distance,
            # No hard limit; the family was trained on inputs and on outputs of 512 tokens.
            max_positions=2 * f.size("n_positions", default=512, nullable=True),
            decoder_start_token_id=f.token(start, vocab_size=vocab_size, default=0),
            scales_output=f.flag("scale_decoder_outputs", default=is_tied and not is_mt5),
            tie_word_embeddings=is_tied,
        )


class _Sublayers(nn.Module):
    """What the blocks of both stacks have: self-attention projections and the MLP."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c, width = config, config.num_heads * config.head_dim
        self.activation, self.is_gated = c.activation, c.is_gated
        self.norm1 = RMSNorm(c.hidden_size, c.eps)
        self.qkv = Linear(c.hidden_size, 3 * width, bias=False)
        self.out = Linear(width, c.hidden_size, bias=False)
        self.mlp_norm = RMSNorm(c.hidden_size, c.eps)
        self.up = Linear(c.hidden_size, (1 + c.is_gated) * c.intermediate_size, bias=False)
        self.down = Linear(c.intermediate_size, c.hidden_size, bias=False)

    def mlp(self, x: Tensor) -> Tensor:
        """x: (tokens, hidden), normalised -> (tokens, hidden)."""
        h = self.up.gated(x, self.activation) if self.is_gated else self.up(x, self.activation)
        out: Tensor = self.down(h)
        return out


class EncoderBlock(_Sublayers):
    """Bidirectional attention and MLP, pre-norm."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.attention = PackedAttention(config.num_heads, config.head_dim, scale=1.0)

    def forward(
        self, x: Tensor, residual: Tensor | None, batch: Batch, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        h, residual = self.norm1.add(x, residual)
        attended = self.out(self.attention(self.qkv(h), batch, bias))
        h, residual = self.mlp_norm.add(attended, residual)
        return self.mlp(h), residual


class Block(_Sublayers):
    """Causal attention, attention to the encoder's outputs, and MLP, pre-norm."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__(config)
        c, width = config, config.num_heads * config.head_dim
        self.attention = PagedAttention(layer, c.num_heads, c.num_heads, c.head_dim, scale=1.0)
        self.cross_norm = RMSNorm(c.hidden_size, c.eps)
        self.cross_q = Linear(c.hidden_size, width, bias=False)
        self.cross_kv = Linear(c.hidden_size, 2 * width, bias=False)
        self.cross_out = Linear(width, c.hidden_size, bias=False)

    def remember(self, encoded: Tensor, batch: Batch) -> None:
        """Stores keys and values of the encoder's outputs (tokens, hidden)."""
        heads = (2, self.attention.num_heads, self.attention.head_dim)
        k, v = self.cross_kv(encoded).unflatten(-1, heads).unbind(1)
        self.attention.write(k, v, batch)

    def forward(
        self, x: Tensor, residual: Tensor | None, batch: Batch, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        h, residual = self.norm1.add(x, residual)
        q, k, v = self.attention.split(self.qkv(h))
        h, residual = self.cross_norm.add(
            self.out(self.attention(q, k, v, batch, relative_bias=bias)), residual
        )
        q = self.cross_q(h).view_as(q)
        attended = self.cross_out(self.attention.cross(q, batch))
        h, residual = self.mlp_norm.add(attended, residual)
        return self.mlp(h), residual


class Model(nn.Module):
    """``encode`` once, then ``forward`` and ``logits`` as for a decoder."""

    # Activations leave the range of float16; transformers keeps parts of the model in float32.
    unsupported_dtypes = (torch.float16,)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = c = config
        self.embed = Embedding(c.vocab_size, c.hidden_size)
        self.encoder = nn.ModuleList(EncoderBlock(c) for _ in range(c.num_encoder_layers))
        self.encoder_norm = RMSNorm(c.hidden_size, c.eps)
        self.encoder_bias = RelativeBias(c.num_heads, c.num_buckets, c.max_distance, True)
        self.decoder = nn.ModuleList(Block(c, i) for i in range(c.num_layers))
        self.decoder_norm = RMSNorm(c.hidden_size, c.eps)
        self.decoder_bias = RelativeBias(c.num_heads, c.num_buckets, c.max_distance, False)
        self.lm_head = Linear(c.hidden_size, c.vocab_size, bias=False)

    def encode(self, batch: Batch) -> None:
        """Runs the encoder and fills the cross-attention part of the cache."""
        x, residual, bias = self.embed(batch.input_ids), None, self.encoder_bias()
        for block in self.encoder:
            x, residual = block(x, residual, batch, bias)
        encoded = self.encoder_norm(x, residual)
        for block in self.decoder:
            assert isinstance(block, Block)
            block.remember(encoded, batch)

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden), normalised."""
        x, residual, bias = self.embed(batch.input_ids), None, self.decoder_bias()
        for block in self.decoder:
            x, residual = block(x, residual, batch, bias)
        out: Tensor = self.decoder_norm(x, residual)
        return out * self.config.hidden_size**-0.5 if self.config.scales_output else out

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (rows, hidden) -> (rows, vocab) float32."""
        out: Tensor = self.lm_head(hidden)
        return out.float()

    def cache_specs(self) -> list[CacheSpec]:
        """What a decoder token, and likewise an encoder token, needs in the KV cache."""
        c = self.config
        return [CacheSpec(c.num_heads, c.head_dim)] * c.num_layers
