"""T5, T5 v1.1, FLAN-T5 and mT5: encoder-decoder, relative position bias, RMSNorm, no biases.

Source: config fields and layer names of transformers' ``T5ForConditionalGeneration``; Raffel et
al. 2020. The original shares the embedding with the head and scales by d_model^-0.5; v1.1 has a
gated MLP and a head of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atoll.errors import ConfigError
from atoll.layers import (
    Attention,
    Batch,
    CrossAttention,
    DecoderConfig,
    Heads,
    RMSNorm,
)
from atoll.layers.block import PreNormBlock
from atoll.layers.embedding import TokenEmbedding
from atoll.layers.encoder_decoder import CrossPreNormBlock, EncoderDecoderLM
from atoll.layers.linear import Head
from atoll.layers.mlp import MLP, GatedMLP
from atoll.layers.relative import RelativeBias
from atoll.models.config_fields import known_activation
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, Source, WeightMap


def _stack(ours: str, theirs: str, mlp: int) -> dict[str, Source]:
    """A stack's table; the MLP is the block's last sublayer."""
    block, last = f"{theirs}.block.{{i}}.layer", f"{theirs}.block.{{i}}.layer.{mlp}"
    gate_up = (f"{last}.DenseReluDense.wi_0", f"{last}.DenseReluDense.wi_1")
    return {
        f"{ours}.{{i}}.norm1": f"{block}.0.layer_norm",
        f"{ours}.{{i}}.attention.qkv": tuple(f"{block}.0.SelfAttention.{x}" for x in "qkv"),
        f"{ours}.{{i}}.attention.out": f"{block}.0.SelfAttention.o",
        f"{ours}.{{i}}.norm2": f"{last}.layer_norm",
        f"{ours}.{{i}}.mlp.up": FirstOf(f"{last}.DenseReluDense.wi", gate_up),
        f"{ours}.{{i}}.mlp.gate_up": FirstOf(gate_up, f"{last}.DenseReluDense.wi"),
        f"{ours}.{{i}}.mlp.down": f"{last}.DenseReluDense.wo",
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
        "decoder.{i}.cross.q": "decoder.block.{i}.layer.1.EncDecAttention.q",
        "decoder.{i}.cross.kv": (
            "decoder.block.{i}.layer.1.EncDecAttention.k",
            "decoder.block.{i}.layer.1.EncDecAttention.v",
        ),
        "decoder.{i}.cross.out": "decoder.block.{i}.layer.1.EncDecAttention.o",
        "lm_head": "lm_head",
    },
    tied={"lm_head": "embed"},
)


# The bias of every distance up to it is held in a table.
_MAX_DISTANCE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json; heads may be wider or narrower than hidden_size / num_heads."""

    num_encoder_layers: int
    is_gated: bool
    num_buckets: int
    max_distance: int
    decoder_start_token_id: int
    scales_output: bool

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
        num_heads = f.size("num_heads", "num_attention_heads")
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
            heads=Heads(num_heads, num_heads, f.size("d_kv")),
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


class Model(EncoderDecoderLM):
    """Pre-norm stacks, each with one relative bias for all of its blocks."""

    # Activations leave the range of float16; transformers keeps parts of the model in float32.
    unsupported_dtypes = (torch.float16,)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = c = config
        self.embed = TokenEmbedding(c.vocab_size, c.hidden_size)
        # Before the blocks, which share it and have no name for it in the table.
        self.encoder_bias = self._relative_bias(is_bidirectional=True)
        self.decoder_bias = self._relative_bias(is_bidirectional=False)
        self.encoder = nn.ModuleList(self._encoder_block() for _ in range(c.num_encoder_layers))
        self.encoder_norm = self._norm()
        self.decoder = nn.ModuleList(self._decoder_block(i) for i in range(c.num_layers))
        self.decoder_norm = self._norm()
        self.lm_head = Head(c.hidden_size, c.vocab_size)

    def encoder_input(self, batch: Batch) -> Tensor:
        """See ``EncoderDecoderLM``."""
        out: Tensor = self.embed(batch.input_ids)
        return out

    def decoder_input(self, batch: Batch) -> Tensor:
        """See ``EncoderDecoderLM``."""
        return self.encoder_input(batch)

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden), normalised."""
        out = super().forward(batch)
        return out * self.config.hidden_size**-0.5 if self.config.scales_output else out

    def _encoder_block(self) -> PreNormBlock:
        c = self.config
        attention = Attention(
            c.hidden_size, c.heads, bias=False, causal=False, scale=1.0,
            relative_bias=self.encoder_bias,
        )  # fmt: skip
        return PreNormBlock(self._norm(), attention, self._norm(), self._mlp())

    def _decoder_block(self, layer: int) -> CrossPreNormBlock:
        c = self.config
        attention = Attention(
            c.hidden_size, c.heads, layer=layer, bias=False, scale=1.0,
            relative_bias=self.decoder_bias,
        )  # fmt: skip
        cross = CrossAttention(c.hidden_size, c.heads, layer=layer, bias=False, scale=1.0)
        norms = self._norm(), self._norm(), self._norm()
        return CrossPreNormBlock(norms[0], attention, norms[1], cross, norms[2], self._mlp())

    def _relative_bias(self, is_bidirectional: bool) -> RelativeBias:
        c = self.config
        return RelativeBias(c.heads.num_heads, c.num_buckets, c.max_distance, is_bidirectional)

    def _norm(self) -> RMSNorm:
        return RMSNorm(self.config.hidden_size, self.config.eps)

    def _mlp(self) -> nn.Module:
        c = self.config
        if c.is_gated:
            return GatedMLP(c.hidden_size, c.intermediate_size, c.activation)
        return MLP(c.hidden_size, c.intermediate_size, c.activation, bias=False)
