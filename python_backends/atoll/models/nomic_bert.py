"""NomicBERT of nomic-embed-text v1, v1.5 and v2-moe: rotary positions, post-norm blocks.

Source: config fields and layer names of nomic-ai/contrastors and of transformers'
``NomicBertModel``; Nussbaum et al. 2024, 2025. config.json has GPT-2's names, or BERT's if
transformers has saved it. In v2-moe, every other MLP is a mixture of experts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

import atoll_kernels as kernels
from atoll.errors import ConfigError
from atoll.layers import MLP, Attention, EncoderTrunk, GatedMLP, LayerNorm, TrunkConfig
from atoll.layers.attention import Heads
from atoll.layers.block import PostNormBlock
from atoll.layers.head_layouts import ClassifierLayout, MaskedLanguageLayout
from atoll.layers.plain_experts import PlainMixture
from atoll.layers.rotary import MAX_POSITIONS, RopeSpec, Rotary
from atoll.models.config_fields import activation, check_width, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, WeightMap

_PREFIXES = ("", "bert.", "nomic_bert.")
_EMBEDDINGS = {
    "words": "embeddings.word_embeddings",
    "token_types": "embeddings.token_type_embeddings",
}
_PUBLISHED = WeightMap(
    anchor="emb_ln",
    complete=("encoder.layers.",),
    prefixes=_PREFIXES,
    modules={
        **_EMBEDDINGS,
        "norm": "emb_ln",
        "blocks.{i}.attention.qkv": "encoder.layers.{i}.attn.Wqkv",
        "blocks.{i}.attention.out": "encoder.layers.{i}.attn.out_proj",
        "blocks.{i}.norm1": "encoder.layers.{i}.norm1",
        "blocks.{i}.mlp.gate_up": ("encoder.layers.{i}.mlp.fc12", "encoder.layers.{i}.mlp.fc11"),
        "blocks.{i}.mlp.up": "encoder.layers.{i}.mlp.fc1",
        "blocks.{i}.mlp.down": "encoder.layers.{i}.mlp.fc2",
        "blocks.{i}.mlp.router": "encoder.layers.{i}.mlp.router.layer",
        "blocks.{i}.mlp.experts": "encoder.layers.{i}.mlp.experts",
        "blocks.{i}.norm2": "encoder.layers.{i}.norm2",
    },
)
# Of transformers' class itself.
_NEW = WeightMap(
    anchor="embeddings.LayerNorm",
    complete=("layers.",),
    prefixes=_PREFIXES,
    modules={
        **_EMBEDDINGS,
        "norm": "embeddings.LayerNorm",
        "blocks.{i}.attention.qkv": (
            "layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
            "layers.{i}.self_attn.v_proj",
        ),
        "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
        "blocks.{i}.norm1": "layers.{i}.post_attention_layernorm",
        "blocks.{i}.mlp.gate_up": ("layers.{i}.mlp.gate_proj", "layers.{i}.mlp.up_proj"),
        "blocks.{i}.mlp.down": "layers.{i}.mlp.down_proj",
        "blocks.{i}.norm2": "layers.{i}.post_mlp_layernorm",
    },
)  # fmt: skip
WEIGHTS = (_PUBLISHED, _NEW)

_CLASSIFIER = ClassifierLayout(
    weights=WeightMap(
        anchor="classifier",
        modules={
            "dense": FirstOf("bert.pooler.dense", "nomic_bert.pooler.dense", "pooler.dense"),
            "classifier": "classifier",
        },
    )
)
_MASKED_LANGUAGE = WeightMap(
    anchor="cls.predictions.transform.dense",
    modules={
        "dense": "cls.predictions.transform.dense",
        "norm": "cls.predictions.transform.layer_norm",
        "decoder": "cls.predictions.decoder",
        "bias": "cls.predictions",
    },
)
# activation_function of MLPs with a gate -> its activation.
_GATES = {"swiglu": "silu", "geglu": "gelu"}


@dataclass(frozen=True, kw_only=True)
class Config(TrunkConfig):
    """Read from config.json. expert_layers: those whose MLP is a mixture of experts."""

    is_gated: bool
    attention_bias: bool
    up_bias: bool
    down_bias: bool
    rope: RopeSpec
    expert_layers: tuple[int, ...]
    num_experts: int
    routing: kernels.Routing

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for positions, an MLP or a routing that is not known."""
        f = Fields(raw)
        is_old = f.has("n_embd")
        _check(f)
        hidden_size = f.size("n_embd", "hidden_size")
        num_layers = f.size("n_layer", "num_hidden_layers", most=MAX_LAYERS)
        heads = read_heads(
            f, hidden_size, ("n_embd", "hidden_size"), ("n_head", "num_attention_heads"),
            dim_name="head_dim",
        )  # fmt: skip
        is_gated, name = True, activation(f, "hidden_act", default="silu")
        if is_old:
            named = f.only("activation_function", *_GATES, "gelu")
            is_gated, name = named in _GATES, _GATES.get(named, named)
        up_bias = f.flag("mlp_fc1_bias", default=is_old)
        down_bias = f.flag("mlp_fc2_bias", default=is_old)
        if not is_gated and up_bias != down_bias:
            raise f.wrong(f"mlp_fc1_bias, {up_bias}, where there is no gate", "mlp_fc2_bias")
        limit = "n_positions" if is_old else "max_position_embeddings"
        expert_layers = _expert_layers(f, num_layers)
        return cls(
            vocab_size=_vocab_size(f),
            hidden_size=hidden_size,
            intermediate_size=f.size("n_inner", "intermediate_size"),
            num_layers=num_layers,
            heads=heads,
            max_length=f.size(limit, default=None if is_old else 2048, most=MAX_POSITIONS),
            num_token_types=f.count("type_vocab_size", default=2, least=0 if is_old else 1),
            eps=f.number("layer_norm_epsilon", "layer_norm_eps", default=1e-5 if is_old else 1e-12),
            activation=name,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            classifiers=(_CLASSIFIER,),
            masked_language=(
                MaskedLanguageLayout(
                    weights=_MASKED_LANGUAGE,
                    dense_bias=up_bias or not is_old,
                    decoder_bias=up_bias or not is_old,
                ),
            ),
            is_gated=is_gated,
            attention_bias=f.flag("qkv_proj_bias", default=is_old),
            up_bias=up_bias,
            down_bias=down_bias,
            rope=_rope(f, heads, is_old),
            expert_layers=expert_layers,
            num_experts=f.size("num_experts") if expert_layers else 0,
            routing=kernels.Routing(f.size("moe_top_k") if expert_layers else 1, renormalize=False),
        )


def _check(f: Fields) -> None:
    """Raises ConfigError: a key asks for what no published checkpoint has."""
    for name in (
        "prenorm", "parallel_block", "causal", "use_rms_norm", "rotary_emb_interleaved", "norm_mlp",
        "moe_normalize_expert_weights", "expert_choice_router",
    ):  # fmt: skip
        f.only(name, False)
    f.only("rotary_emb_scale_base", None)
    f.only("num_heads_kv", None)
    f.only("num_shared_experts", 0)
    f.only("ffn_div", 1)
    if f.number("rotary_emb_fraction", default=1.0) != 1.0:
        raise f.wrong("1.0, all of a head", "rotary_emb_fraction")


def _vocab_size(f: Fields) -> int:
    size, multiple = f.size("vocab_size"), f.size("pad_vocab_size_multiple", default=1)
    return -(-size // multiple) * multiple


def _expert_layers(f: Fields, num_layers: int) -> tuple[int, ...]:
    every = f.count("moe_every_n_layers", default=0, nullable=True)
    return tuple(i for i in range(num_layers) if every and i % every == 1)


def _rope(f: Fields, heads: Heads, is_old: bool) -> RopeSpec:
    """The rotation, by transformers' keys or by Nomic's own, which must not contradict each other.

    ``rotary_scaling_factor`` asks for dynamic scaling of texts longer than the model was trained
    with.
    """
    dim, names = heads.head_dim, ("rotary_emb_base", "rotary_scaling_factor")
    check_width(f, dim, dim, "n_head", "num_attention_heads")
    new = ("rope_parameters", "rope_scaling", "rope_theta")
    spec = RopeSpec.from_hf(f.raw, dim, 1000.0)
    if not f.has(*names) and (f.has(*new) or not is_old):
        return spec
    trained = ("max_trained_positions", "max_position_embeddings")
    factor = f.number(names[1]) if f.has(names[1]) else None
    own = RopeSpec(
        dim=dim,
        theta=f.number(names[0], default=spec.theta if f.has(*new) else None, above=1.0),
        max_positions=f.size(*trained, default=2048, most=MAX_POSITIONS),
        kind="default" if factor is None else "dynamic",
        factor=factor or 1.0,
    )
    is_same = (own.theta, own.kind, own.factor) == (spec.theta, spec.kind, spec.factor)
    if f.has(*new) and not is_same:
        found = ", ".join(name for name in (*names, *new) if f.has(name))
        raise ConfigError(f"{f.source}: {found} contradict each other")
    return own


class Model(EncoderTrunk):
    """Post-norm blocks; rotary positions."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)

        def mlp(layer: int) -> nn.Module:
            sizes = c.hidden_size, c.intermediate_size
            if layer in c.expert_layers:
                return PlainMixture(*sizes, c.num_experts, c.routing, c.activation)
            if c.is_gated:
                return GatedMLP(*sizes, c.activation, c.up_bias, c.down_bias)
            return MLP(*sizes, c.activation, c.up_bias)

        def block(layer: int) -> PostNormBlock:
            return PostNormBlock(
                Attention(
                    c.hidden_size, c.heads, layer=layer, bias=c.attention_bias, causal=False,
                    rotary=rotary,
                ),
                LayerNorm(c.hidden_size, c.eps),
                mlp(layer),
                LayerNorm(c.hidden_size, c.eps),
            )  # fmt: skip

        super().__init__(c, block)
