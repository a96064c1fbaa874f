"""ModernBERT: pre-norm blocks without biases, rotary positions, most layers with a window.

Source: config fields and layer names of transformers' ``ModernBertModel``; Warner et al. 2024.
Every third layer sees the whole text. A query of the others sees the keys that are at most half of
``local_attention`` away on either side, and is rotated by another theta.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from atoll.errors import ConfigError
from atoll.layers import Attention, Batch, EncoderTrunk, GatedMLP, LayerNorm, TrunkConfig
from atoll.layers.attention import Heads
from atoll.layers.block import PreNormBlock
from atoll.layers.head_layouts import ClassifierLayout, MaskedLanguageLayout
from atoll.layers.norm import NoNorm
from atoll.layers.rotary import MAX_POSITIONS, RopeSpec, Rotary
from atoll.models.config_fields import activation, check_width, layer_windows, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap

WEIGHTS = WeightMap(
    anchor="embeddings.tok_embeddings",
    complete=("layers.",),
    prefixes=("", "model."),
    modules={
        "words": "embeddings.tok_embeddings",
        "norm": "embeddings.norm",
        "blocks.{i}.norm1": "layers.{i}.attn_norm",
        "blocks.{i}.attention.qkv": "layers.{i}.attn.Wqkv",
        "blocks.{i}.attention.out": "layers.{i}.attn.Wo",
        "blocks.{i}.norm2": "layers.{i}.mlp_norm",
        "blocks.{i}.mlp.gate_up": "layers.{i}.mlp.Wi",
        "blocks.{i}.mlp.down": "layers.{i}.mlp.Wo",
        "final_norm": "final_norm",
    },
)

_CLASSIFIER = WeightMap(
    anchor="classifier",
    modules={"dense": "head.dense", "norm": "head.norm", "classifier": "classifier"},
)
_MASKED_LANGUAGE = WeightMap(
    anchor="head.dense",
    modules={"dense": "head.dense", "norm": "head.norm", "decoder": "decoder", "bias": "decoder"},
)


@dataclass(frozen=True, kw_only=True)
class Config(TrunkConfig):
    """Read from config.json. windows: of each layer. local_rope: of layers with a window."""

    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    windows: tuple[int | None, ...]
    rope: RopeSpec
    local_rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rotation, a kind of attention or a head that is not known."""
        f = Fields(raw)
        hidden_size = f.size("hidden_size")
        num_layers = f.size("num_hidden_layers", most=MAX_LAYERS)
        heads = read_heads(f, hidden_size)
        rope, local_rope = _ropes(f, heads)
        eps = f.number("norm_eps", default=1e-5)
        norm_bias = f.flag("norm_bias", default=False)
        head: dict[str, Any] = {
            "dense_bias": f.flag("classifier_bias", default=False),
            "activation": activation(f, "classifier_activation", default="gelu"),
            "norm_bias": norm_bias,
        }
        classifier = ClassifierLayout(
            weights=_CLASSIFIER,
            pooling=f.only("classifier_pooling", "cls", "mean"),
            norm_eps=eps,
            **head,
        )
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=num_layers,
            heads=heads,
            max_length=f.size("max_position_embeddings", default=8192, most=MAX_POSITIONS),
            num_token_types=0,
            eps=eps,
            activation=activation(f, "hidden_activation", default="gelu"),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            classifiers=(classifier,),
            token_classifiers=(classifier,),
            masked_language=(
                MaskedLanguageLayout(
                    weights=_MASKED_LANGUAGE,
                    decoder_bias=f.flag("decoder_bias", default=True),
                    **head,
                ),
            ),
            norm_bias=norm_bias,
            attention_bias=f.flag("attention_bias", default=False),
            mlp_bias=f.flag("mlp_bias", default=False),
            windows=_windows(f, num_layers),
            rope=rope,
            local_rope=local_rope,
        )


def _windows(f: Fields, num_layers: int) -> tuple[int | None, ...]:
    period = 1 if f.has("layer_types") else f.size("global_attn_every_n_layers", default=3)
    reach = f.size("local_attention", default=128) // 2
    if f.has("sliding_window") and f.size("sliding_window") != reach:
        raise f.wrong(f"half of local_attention, {reach}", "sliding_window")
    return layer_windows(
        f, num_layers, reach + 1, lambda layer: layer % period != 0, ("local_attention",)
    )


def _ropes(f: Fields, heads: Heads) -> tuple[RopeSpec, RopeSpec]:
    """The rotations of layers that see the whole text, and of those with a window."""
    check_width(f, heads.head_dim, heads.head_dim, "num_attention_heads")
    f.only("rope_scaling", None)
    parameters = f.inside("rope_parameters")
    other = sorted(set(parameters.raw) - {"full_attention", "sliding_attention"})
    if other:
        raise ConfigError(
            f"{parameters.source} has {other}; expected full_attention and sliding_attention"
        )
    both = {name: f.raw[name] for name in ("max_position_embeddings",) if name in f.raw}

    def rope(kind: str, name: str, theta: float) -> RopeSpec:
        inner = parameters.inside(kind).raw
        if "rope_theta" not in inner:
            inner = {**inner, "rope_theta": f.number(name, default=theta)}
        return RopeSpec.from_hf(
            {**both, "rope_parameters": inner}, heads.head_dim, theta, max_positions=8192
        )

    return (
        rope("full_attention", "global_rope_theta", 160000.0),
        rope("sliding_attention", "local_rope_theta", 10000.0),
    )


class Model(EncoderTrunk):
    """Pre-norm blocks, of which the first is not normed before its attention."""

    def __init__(self, config: Config) -> None:
        c = config
        rotary, local_rotary = Rotary(c.rope), Rotary(c.local_rope)

        def norm() -> LayerNorm:
            return LayerNorm(c.hidden_size, c.eps, c.norm_bias)

        def block(layer: int) -> PreNormBlock:
            window = c.windows[layer]
            return PreNormBlock(
                norm() if layer else NoNorm(),
                Attention(
                    c.hidden_size, c.heads, layer=layer, bias=c.attention_bias, causal=False,
                    window=window, rotary=rotary if window is None else local_rotary,
                ),
                norm(),
                GatedMLP(
                    c.hidden_size, c.intermediate_size, c.activation, c.mlp_bias, c.mlp_bias
                ),
            )  # fmt: skip

        super().__init__(c, block)
        self.norm, self.final_norm = norm(), norm()

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden)."""
        x, residual = self.first(batch), None
        for block in self.blocks:
            x, residual = block(x, residual, batch)
        out: Tensor = self.final_norm(x, residual)
        return out
