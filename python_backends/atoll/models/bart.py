"""BART, mBART, mBART-50, M2M100, NLLB and Marian: encoder-decoders with LayerNorm and biases.

Source: config fields and layer names of transformers' ``BartForConditionalGeneration``,
``MBartForConditionalGeneration``, ``M2M100ForConditionalGeneration`` and ``MarianMTModel``; Lewis
et al. 2019, Liu et al. 2020, Tang et al. 2020, Fan et al. 2020, NLLB team 2022, Junczys-Dowmunt et
al. 2018. BART and Marian normalise after the sums, the others before them and at the end of each
stack. BART and mBART have learned positions, behind which words and positions are normalised
together; the others have sinusoids. Marian's source and target may have vocabularies of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atoll.layers import MLP, Attention, Batch, CrossAttention, DecoderConfig, Heads, LayerNorm
from atoll.layers.block import PostNormBlock, PreNormBlock
from atoll.layers.embedding import Embedding, Sinusoids, TokenEmbedding
from atoll.layers.encoder_decoder import CrossPostNormBlock, CrossPreNormBlock, EncoderDecoderLM
from atoll.layers.linear import Head, WordBias
from atoll.layers.norm import NoNorm, Norm
from atoll.models.config_fields import activation, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions
from atoll.weights.weight_map import FirstOf, Source, WeightMap


def _stack(name: str) -> dict[str, Source]:
    """A stack's table; ours and theirs are called alike."""
    layer = f"{name}.layers.{{i}}"
    return {
        f"{name}_positions": f"{name}.embed_positions",
        f"{name}_embedding_norm": f"{name}.layernorm_embedding",
        f"{name}.{{i}}.attention.qkv": tuple(f"{layer}.self_attn.{x}_proj" for x in "qkv"),
        f"{name}.{{i}}.attention.out": f"{layer}.self_attn.out_proj",
        f"{name}.{{i}}.norm1": f"{layer}.self_attn_layer_norm",
        f"{name}.{{i}}.mlp.up": f"{layer}.fc1",
        f"{name}.{{i}}.mlp.down": f"{layer}.fc2",
        f"{name}.{{i}}.norm2": f"{layer}.final_layer_norm",
        f"{name}_norm": f"{name}.layer_norm",
    }


WEIGHTS = WeightMap(
    anchor="encoder.layers.0.fc1",
    complete=(
        "encoder.layers.", "decoder.layers.", "encoder.layer_norm.", "decoder.layer_norm.",
        "encoder.layernorm_embedding.", "decoder.layernorm_embedding.",
    ),
    prefixes=("model.", ""),
    modules={
        "embed": FirstOf("shared", "decoder.embed_tokens", "encoder.embed_tokens"),
        "source_embed": "encoder.embed_tokens",
        **_stack("encoder"),
        **_stack("decoder"),
        "decoder.{i}.cross.q": "decoder.layers.{i}.encoder_attn.q_proj",
        "decoder.{i}.cross.kv": (
            "decoder.layers.{i}.encoder_attn.k_proj", "decoder.layers.{i}.encoder_attn.v_proj",
        ),
        "decoder.{i}.cross.out": "decoder.layers.{i}.encoder_attn.out_proj",
        "decoder.{i}.cross_norm": "decoder.layers.{i}.encoder_attn_layer_norm",
        "lm_head": "/lm_head",
        "word_bias": "/final_logits_bias",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip

# Rows 0 and 1 of the learned tables are never used: ids count from the padding id on.
_LEARNED_OFFSET = 2
# Sinusoids are held in a table.
_MAX_POSITIONS = 1 << 20


class _Kind(NamedTuple):
    """A model_type: where its norms are, what its files have, and its config class's defaults.

    old_keys: what config.json of older files says of the layout.
    """

    is_pre_norm: bool
    has_learned_positions: bool
    has_word_bias: bool
    activation: str
    is_scaled: bool
    old_keys: Mapping[str, bool]


def _old_keys(**changed: bool) -> Mapping[str, bool]:
    usual = {
        "normalize_before": False, "add_final_layer_norm": False, "normalize_embedding": True,
        "static_position_embeddings": False, "add_bias_logits": False,
    }  # fmt: skip
    return {**usual, **changed}


_KINDS = {
    "bart": _Kind(False, True, True, "gelu", False, _old_keys()),
    "mbart": _Kind(
        True, True, True, "gelu", False, _old_keys(normalize_before=True, add_final_layer_norm=True)
    ),
    "m2m_100": _Kind(True, False, False, "relu", True, {}),
    "marian": _Kind(
        False, False, True, "gelu", False,
        _old_keys(normalize_embedding=False, static_position_embeddings=True),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. ``heads``, ``num_layers`` and ``intermediate_size`` are the decoder's.

    max_positions: of an input and an answer together. max_input_positions, max_answer_positions:
    of each. position_offset: the row of the first token in the table of positions.
    input_vocab_size: words of the input; ``vocab_size`` is the answer's. is_marian: whose sinusoids
    are others.
    """

    num_encoder_layers: int
    encoder_heads: Heads
    encoder_intermediate_size: int
    max_input_positions: int
    max_answer_positions: int
    position_offset: int
    decoder_start_token_id: int
    is_pre_norm: bool
    has_learned_positions: bool
    has_word_bias: bool
    embedding_scale: float
    input_vocab_size: int
    has_one_vocabulary: bool
    is_marian: bool

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a decoder alone, embeddings that are not tied, or an older file's
        other layout."""
        f = Fields(raw)
        name = str(raw.get("model_type"))
        kind, is_marian = _KINDS[name], name == "marian"
        f.only("is_encoder_decoder", True)
        is_tied = f.flag("tie_word_embeddings", default=True)
        is_tied = is_tied if is_marian else bool(f.only("tie_word_embeddings", True))
        for key, value in kind.old_keys.items():
            f.only(key, value)
        hidden_size, num_words = f.size("d_model", "hidden_size"), f.size("vocab_size")
        positions = f.size("max_position_embeddings", default=1024, most=_MAX_POSITIONS)
        has_one = not is_marian or f.flag("share_encoder_decoder_embeddings", default=True)
        answer_words = num_words
        if is_marian:
            answer_words = f.size("decoder_vocab_size", default=num_words, nullable=True)
            if has_one and answer_words != num_words:
                raise f.wrong(f"vocab_size, {num_words}: both share a table", "decoder_vocab_size")
        offset = _LEARNED_OFFSET if kind.has_learned_positions else 0
        if name == "m2m_100":
            offset = f.token("pad_token_id", vocab_size=num_words, default=1) + 1

        def heads(stack: str) -> Heads:
            names = (f"{stack}_attention_heads",)
            return read_heads(f, hidden_size, ("d_model", "hidden_size"), names)

        return cls(
            vocab_size=answer_words,
            hidden_size=hidden_size,
            intermediate_size=f.size("decoder_ffn_dim"),
            encoder_intermediate_size=f.size("encoder_ffn_dim"),
            num_layers=f.size("decoder_layers", most=MAX_LAYERS),
            num_encoder_layers=f.size("encoder_layers", most=MAX_LAYERS),
            heads=heads("decoder"),
            encoder_heads=heads("encoder"),
            eps=1e-5,
            activation=activation(f, "activation_function", default=kind.activation),
            max_positions=2 * positions,
            max_input_positions=positions,
            max_answer_positions=positions,
            position_offset=offset,
            decoder_start_token_id=_start(f, name, answer_words),
            is_pre_norm=kind.is_pre_norm,
            has_learned_positions=kind.has_learned_positions,
            has_word_bias=kind.has_word_bias,
            embedding_scale=(
                hidden_size**0.5 if f.flag("scale_embedding", default=kind.is_scaled) else 1.0
            ),
            tie_word_embeddings=is_tied,
            input_vocab_size=num_words,
            has_one_vocabulary=has_one,
            is_marian=is_marian,
        )


def _start(f: Fields, kind: str, vocab_size: int) -> int:
    """What the decoder starts with."""
    name, first = "decoder_start_token_id", 58100 if kind == "marian" else 2
    # mBART's config class has none, for which transformers starts with bos_token_id.
    if kind == "mbart" and not f.has(name):
        name, first = "bos_token_id", 0
    return f.token(name, vocab_size=vocab_size, default=first)


class MarianSinusoids(Sinusoids):
    """Sines of the even features' angles, then cosines of the odd ones', unless a file has them."""

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads or makes the table."""
        if not group.has("weight"):
            super().load(group, options)
            return
        table = group.get("weight", (self.num_positions, self.dim))
        self.table = table.to(options.device, options.dtype)

    def made(self) -> Tensor:
        """(positions, dim) float32."""
        rates = 10000.0 ** -(torch.arange(0, self.dim, 2, dtype=torch.float64) / self.dim)
        angles = torch.arange(self.num_positions, dtype=torch.float64).unsqueeze(1) * rates
        return torch.cat([angles.sin(), angles[:, : self.dim // 2].cos()], 1).float()


class Model(EncoderDecoderLM):
    """Norms before or after the sums, learned positions or sinusoids, as the config says."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = c = config
        self.embed = TokenEmbedding(c.vocab_size, c.hidden_size)
        self.source_embed = (
            None if c.has_one_vocabulary else TokenEmbedding(c.input_vocab_size, c.hidden_size)
        )
        for name in ("encoder", "decoder"):
            setattr(self, f"{name}_positions", self._positions())
            setattr(self, f"{name}_embedding_norm", self._norm(c.has_learned_positions))
        self.encoder = nn.ModuleList(self._encoder_block() for _ in range(c.num_encoder_layers))
        self.encoder_norm = self._norm(c.is_pre_norm)
        self.decoder = nn.ModuleList(map(self._decoder_block, range(c.num_layers)))
        self.decoder_norm = self._norm(c.is_pre_norm)
        self.lm_head = Head(c.hidden_size, c.vocab_size)
        self.word_bias = WordBias(c.vocab_size) if c.has_word_bias else None

    def encoder_input(self, batch: Batch) -> Tensor:
        """See ``EncoderDecoderLM``."""
        embed = self.embed if self.source_embed is None else self.source_embed
        return self._embedded(embed(batch.input_ids), batch, "encoder")

    def decoder_input(self, batch: Batch) -> Tensor:
        """See ``EncoderDecoderLM``."""
        return self._embedded(self.embed(batch.input_ids), batch, "decoder")

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (rows, hidden) -> (rows, vocab) float32."""
        scores = super().logits(hidden)
        return scores if self.word_bias is None else self.word_bias(scores)

    def _embedded(self, x: Tensor, batch: Batch, stack: str) -> Tensor:
        c = self.config
        if c.embedding_scale != 1.0:
            x = x * c.embedding_scale
        places = getattr(self, f"{stack}_positions")(batch.positions + c.position_offset)
        out: Tensor = getattr(self, f"{stack}_embedding_norm")(x + places)
        return out

    def _encoder_block(self) -> nn.Module:
        c = self.config
        attention = Attention(c.hidden_size, c.encoder_heads, causal=False)
        mlp = MLP(c.hidden_size, c.encoder_intermediate_size, c.activation)
        if c.is_pre_norm:
            return PreNormBlock(self._norm(), attention, self._norm(), mlp)
        return PostNormBlock(attention, self._norm(), mlp, self._norm())

    def _decoder_block(self, layer: int) -> nn.Module:
        c = self.config
        attention = Attention(c.hidden_size, c.heads, layer=layer)
        scale = c.heads.head_dim**-0.5
        cross = CrossAttention(c.hidden_size, c.heads, layer=layer, bias=True, scale=scale)
        mlp = MLP(c.hidden_size, c.intermediate_size, c.activation)
        norms = self._norm(), self._norm(), self._norm()
        if c.is_pre_norm:
            return CrossPreNormBlock(norms[0], attention, norms[1], cross, norms[2], mlp)
        return CrossPostNormBlock(attention, norms[0], cross, norms[1], mlp, norms[2])

    def _positions(self) -> Embedding | Sinusoids:
        c = self.config
        count = c.max_input_positions + c.position_offset
        if c.has_learned_positions:
            return Embedding(count, c.hidden_size)
        return (MarianSinusoids if c.is_marian else Sinusoids)(count, c.hidden_size)

    def _norm(self, is_there: bool = True) -> Norm:
        return LayerNorm(self.config.hidden_size, self.config.eps) if is_there else NoNorm()
