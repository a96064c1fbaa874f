"""Whisper and Distil-Whisper: an encoder of log-mel spectrograms, and a decoder that writes text.

Source: config fields and layer names of transformers' ``WhisperForConditionalGeneration``; Radford
et al. 2022. Two convolutions, of which the second halves the frames, and fixed positions come
before the encoder's blocks; the decoder's positions are learned, its head is tied. Keys have no
bias. Distil-Whisper has fewer layers in the decoder, large-v3 more bins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.layers import MLP, Attention, Batch, CrossAttention, DecoderConfig, Heads, LayerNorm
from atoll.layers.block import PreNormBlock
from atoll.layers.convolution import FrameConvolution
from atoll.layers.embedding import Embedding, TokenEmbedding
from atoll.layers.encoder_decoder import CrossPreNormBlock, EncoderDecoderLM
from atoll.layers.linear import Head
from atoll.models.config_fields import activation, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import Source, WeightMap


def _stack(name: str) -> dict[str, Source]:
    """A stack's table; ours and theirs are called alike."""
    layer = f"{name}.layers.{{i}}"
    return {
        f"{name}_positions": f"{name}.embed_positions",
        f"{name}.{{i}}.attention.qkv": tuple(f"{layer}.self_attn.{x}_proj" for x in "qkv"),
        f"{name}.{{i}}.attention.out": f"{layer}.self_attn.out_proj",
        f"{name}.{{i}}.norm1": f"{layer}.self_attn_layer_norm",
        f"{name}.{{i}}.mlp.up": f"{layer}.fc1",
        f"{name}.{{i}}.mlp.down": f"{layer}.fc2",
        f"{name}.{{i}}.norm2": f"{layer}.final_layer_norm",
        f"{name}_norm": f"{name}.layer_norm",
    }


WEIGHTS = WeightMap(
    anchor="encoder.conv1",
    complete=("encoder.", "decoder."),
    prefixes=("model.", ""),
    modules={
        "embed": "decoder.embed_tokens",
        "conv1": "encoder.conv1",
        "conv2": "encoder.conv2",
        **_stack("encoder"),
        **_stack("decoder"),
        "decoder.{i}.cross.q": "decoder.layers.{i}.encoder_attn.q_proj",
        "decoder.{i}.cross.kv": (
            "decoder.layers.{i}.encoder_attn.k_proj", "decoder.layers.{i}.encoder_attn.v_proj",
        ),
        "decoder.{i}.cross.out": "decoder.layers.{i}.encoder_attn.out_proj",
        "decoder.{i}.cross_norm": "decoder.layers.{i}.encoder_attn_layer_norm",
        "lm_head": "/proj_out",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip

# Frames of an input for each of the encoder's outputs.
_STRIDE = 2
_MAX_POSITIONS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. ``heads``, ``num_layers`` and ``intermediate_size`` are the decoder's.

    max_positions: of an input and an answer together. max_input_positions: outputs of the encoder,
    as many for every input. max_answer_positions: of the decoder. num_features: bins of a frame.
    frames_per_output: frames that make one output of the encoder.
    """

    num_encoder_layers: int
    encoder_heads: Heads
    encoder_intermediate_size: int
    max_input_positions: int
    max_answer_positions: int
    num_features: int
    decoder_start_token_id: int
    frames_per_output: int = _STRIDE

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError: a decoder alone, a head of its own, or scaled embeddings."""
        f = Fields(raw)
        f.only("is_encoder_decoder", True)
        f.only("tie_word_embeddings", True)
        f.only("scale_embedding", False)
        hidden_size, vocab_size = f.size("d_model", "hidden_size"), f.size("vocab_size")

        def heads(stack: str) -> Heads:
            names = (f"{stack}_attention_heads",)
            return read_heads(f, hidden_size, ("d_model", "hidden_size"), names)

        inputs = f.size("max_source_positions", default=1500, most=_MAX_POSITIONS)
        answers = f.size("max_target_positions", default=448, most=_MAX_POSITIONS)
        return cls(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=f.size("decoder_ffn_dim"),
            encoder_intermediate_size=f.size("encoder_ffn_dim"),
            num_layers=f.size("decoder_layers", most=MAX_LAYERS),
            num_encoder_layers=f.size("encoder_layers", most=MAX_LAYERS),
            heads=heads("decoder"),
            encoder_heads=heads("encoder"),
            eps=1e-5,
            activation=activation(f, "activation_function", default="gelu"),
            max_positions=inputs + answers,
            max_input_positions=inputs,
            max_answer_positions=answers,
            num_features=f.size("num_mel_bins", default=80),
            decoder_start_token_id=f.token(
                "decoder_start_token_id", vocab_size=vocab_size, default=50257
            ),
            tie_word_embeddings=True,
        )


class Model(EncoderDecoderLM):
    """Its encoder's input is ``Batch.features``: two frames for each token of a sequence."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = c = config
        self.embed = TokenEmbedding(c.vocab_size, c.hidden_size)
        self.conv1 = FrameConvolution(c.num_features, c.hidden_size)
        self.conv2 = FrameConvolution(c.hidden_size, c.hidden_size, stride=_STRIDE)
        self.encoder_positions = Embedding(c.max_input_positions, c.hidden_size)
        self.encoder = nn.ModuleList(self._encoder_block() for _ in range(c.num_encoder_layers))
        self.encoder_norm = self._norm()
        self.decoder_positions = Embedding(c.max_answer_positions, c.hidden_size)
        self.decoder = nn.ModuleList(map(self._decoder_block, range(c.num_layers)))
        self.decoder_norm = self._norm()
        self.lm_head = Head(c.hidden_size, c.vocab_size)

    def encoder_input(self, batch: Batch) -> Tensor:
        """See ``EncoderDecoderLM``."""
        assert batch.features is not None, "an encoder of sound has features"
        frames = (batch.cu_seqlens.diff() * _STRIDE).tolist()
        x = torch.cat([self._convolved(sound) for sound in batch.features.split(frames)])
        out: Tensor = x + self.encoder_positions(batch.positions)
        return out

    def decoder_input(self, batch: Batch) -> Tensor:
        """See ``EncoderDecoderLM``."""
        out: Tensor = self.embed(batch.input_ids) + self.decoder_positions(batch.positions)
        return out

    def _convolved(self, sound: Tensor) -> Tensor:
        """sound: (frames, bins) -> (frames / 2, hidden)."""
        x = sound.to(self.conv1.weight.dtype).T.unsqueeze(0)
        return F.gelu(self.conv2(F.gelu(self.conv1(x))))[0].T

    def _encoder_block(self) -> PreNormBlock:
        c = self.config
        attention = Attention(c.hidden_size, c.encoder_heads, causal=False, key_bias=False)
        mlp = MLP(c.hidden_size, c.encoder_intermediate_size, c.activation)
        return PreNormBlock(self._norm(), attention, self._norm(), mlp)

    def _decoder_block(self, layer: int) -> CrossPreNormBlock:
        c = self.config
        attention = Attention(c.hidden_size, c.heads, layer=layer, key_bias=False)
        cross = CrossAttention(
            c.hidden_size, c.heads, layer=layer, bias=True, scale=c.heads.head_dim**-0.5,
            key_bias=False,
        )  # fmt: skip
        mlp = MLP(c.hidden_size, c.intermediate_size, c.activation)
        return CrossPreNormBlock(self._norm(), attention, self._norm(), cross, self._norm(), mlp)

    def _norm(self) -> LayerNorm:
        return LayerNorm(self.config.hidden_size, self.config.eps)
