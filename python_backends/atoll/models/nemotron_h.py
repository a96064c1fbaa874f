"""Nemotron-H, Nemotron Nano 2 and Nemotron 3: each layer is a Mamba-2 layer, an attention, an MLP
or experts alone.

Attention has no positions. Source: config fields and layer names of transformers'
``NemotronHForCausalLM``; NVIDIA 2025. Time steps are bounded by ``time_step_limit``, as in the code
published with the files; transformers takes ``time_step_min`` for the least one of a prompt's
tokens, and none for those that follow.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from atoll.errors import ConfigError
from atoll.layers import MLP, Attention, CausalLM, DecoderConfig, Heads, RMSNorm
from atoll.layers.mamba2 import Mamba2, Mamba2Spec
from atoll.layers.mlp_experts import MLPMixture
from atoll.layers.moe import Float32Router
from atoll.layers.sole_block import SoleAttention, SoleMixer, SoleMLP
from atoll.models.config_fields import activation
from atoll.models.config_mamba import conv_width, places, time_step_limits
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, WeightMap
from atoll_kernels import Routing

WEIGHTS = WeightMap(
    anchor="embeddings",
    complete=("layers.",),
    prefixes=("backbone.", "model.", ""),
    modules={
        "embed": "embeddings",
        "blocks.{i}.norm": "layers.{i}.norm",
        "blocks.{i}.mixer.in_proj": "layers.{i}.mixer.in_proj",
        "blocks.{i}.mixer.conv": "layers.{i}.mixer.conv1d",
        "blocks.{i}.mixer.scan": "layers.{i}.mixer",
        "blocks.{i}.mixer.norm": "layers.{i}.mixer.norm",
        "blocks.{i}.mixer.out": "layers.{i}.mixer.out_proj",
        "blocks.{i}.attention.qkv": (
            "layers.{i}.mixer.q_proj", "layers.{i}.mixer.k_proj", "layers.{i}.mixer.v_proj",
        ),
        "blocks.{i}.attention.out": "layers.{i}.mixer.o_proj",
        "blocks.{i}.mlp.up": "layers.{i}.mixer.up_proj",
        "blocks.{i}.mlp.down": "layers.{i}.mixer.down_proj",
        "blocks.{i}.mlp.router": "layers.{i}.mixer.gate",
        "blocks.{i}.mlp.experts.{e}.up": FirstOf(
            "layers.{i}.mixer.experts.{e}.up_proj", "layers.{i}.mixer.experts.up_proj[{e}]",
        ),
        "blocks.{i}.mlp.experts.{e}.down": FirstOf(
            "layers.{i}.mixer.experts.{e}.down_proj", "layers.{i}.mixer.experts.down_proj[{e}]",
        ),
        "blocks.{i}.mlp.shared.up": "layers.{i}.mixer.shared_experts.up_proj",
        "blocks.{i}.mlp.shared.down": "layers.{i}.mixer.shared_experts.down_proj",
        "blocks.{i}.mlp.enter": "layers.{i}.mixer.fc1_latent_proj",
        "blocks.{i}.mlp.leave": "layers.{i}.mixer.fc2_latent_proj",
        "norm": "norm_f",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip

# Letters of the pattern, and what transformers writes in their place.
_KINDS = {
    "M": "M", "mamba": "M", "linear_attention": "M",
    "*": "*", "attention": "*", "full_attention": "*",
    "-": "-", "mlp": "-", "E": "E", "moe": "E",
}  # fmt: skip


@dataclass(frozen=True)
class Experts:
    """Of a layer. latent_size: see ``MLPMixture``."""

    num_experts: int
    routing: Routing
    size: int
    shared_size: int
    latent_size: int | None


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. pattern: ``M``, ``*``, ``-`` or ``E`` for each layer."""

    pattern: str
    mamba: Mamba2Spec
    mlp_bias: bool
    experts: Experts | None

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a kind of layer that is not known."""
        f = Fields(raw)
        pattern = _pattern(f)
        num_heads = f.size("num_attention_heads")
        num_kv_heads = f.size("num_key_value_heads", default=num_heads, nullable=True)
        f.divided(num_heads, ("num_attention_heads",), num_kv_heads, ("num_key_value_heads",))
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=f.size("hidden_size"),
            intermediate_size=f.size("intermediate_size", default=21504),
            num_layers=len(pattern),
            heads=Heads(num_heads, num_kv_heads, f.size("head_dim", default=128)),
            eps=f.number("layer_norm_epsilon", default=1e-5),
            activation=activation(f, "mlp_hidden_act", default="relu2"),
            max_positions=f.size("max_position_embeddings", default=4096),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            pattern=pattern,
            mamba=_mamba(f),
            mlp_bias=f.flag("mlp_bias", default=False),
            experts=_experts(f) if "E" in pattern else None,
        )

    @property
    def num_experts(self) -> int:
        """Of a layer that has experts."""
        return 0 if self.experts is None else self.experts.num_experts


def _pattern(f: Fields) -> str:
    name = "layers_block_type" if f.has("layers_block_type") else "hybrid_override_pattern"
    if not f.has(name):
        raise ConfigError(f"{f.source} has no layers_block_type and no hybrid_override_pattern")
    kinds = f.texts(name) if name == "layers_block_type" else tuple(f.text(name))
    other = sorted(set(kinds) - set(_KINDS))
    if other or not kinds:
        raise ConfigError(
            f"{f.source}: {name} has {other or 'no layers'}; supported: {', '.join(_KINDS)}"
        )
    num_layers = f.size("num_hidden_layers", default=len(kinds), most=MAX_LAYERS)
    if num_layers != len(kinds):
        raise f.wrong(f"{len(kinds)}, the layers of {name}", "num_hidden_layers")
    return "".join(_KINDS[kind] for kind in kinds)


def _mamba(f: Fields) -> Mamba2Spec:
    f.only("mamba_hidden_act", "silu")
    num_heads = f.size("mamba_num_heads", default=128)
    num_groups = f.size("n_groups", default=8)
    f.divided(num_heads, ("mamba_num_heads",), num_groups, ("n_groups",))
    bias = f.flag("use_bias", default=False)
    return Mamba2Spec(
        num_heads=num_heads,
        head_dim=f.size("mamba_head_dim", default=64),
        num_groups=num_groups,
        state_size=f.size("ssm_state_size", default=128),
        conv_width=conv_width(f, "conv_kernel", 4),
        in_bias=bias,
        conv_bias=f.flag("use_conv_bias", default=True),
        out_bias=bias,
        eps=f.number("layer_norm_epsilon", default=1e-5),
        dt_limits=time_step_limits(f),
    )


def _experts(f: Fields) -> Experts:
    has_latent = f.has("moe_latent_size")
    latent_size = f.size("moe_latent_size", default=f.size("hidden_size"), nullable=True)
    if has_latent:
        f.only("mlp_bias", False)
    num_experts = f.size("n_routed_experts", default=8, most=MAX_LAYERS)
    num_groups = f.size("n_group", default=1, most=num_experts)
    each = f.divided(num_experts, ("n_routed_experts",), num_groups, ("n_group",))
    if each < 2:
        raise f.wrong("2 experts or more in each group", "n_group")
    top_groups = f.size("topk_group", default=1, most=num_groups)
    return Experts(
        num_experts=num_experts,
        routing=Routing(
            f.size("num_experts_per_tok", default=2, most=each * top_groups), "sigmoid",
            renormalize=f.flag("norm_topk_prob", default=True),
            scaling=f.number("routed_scaling_factor", default=1.0),
            num_groups=num_groups, top_groups=top_groups, best_of_group=2,
        ),
        size=f.size("moe_intermediate_size", default=7688),
        shared_size=f.size("moe_shared_expert_intermediate_size", default=7688),
        latent_size=latent_size if has_latent else None,
    )  # fmt: skip


class Model(CausalLM):
    """Blocks of one branch each."""

    def __init__(self, config: Config) -> None:
        c = config
        mixers, attentions = (places([kind == k for kind in c.pattern]) for k in "M*")

        def block(layer: int) -> nn.Module:
            norm = RMSNorm(c.hidden_size, c.eps)
            if c.pattern[layer] == "M":
                return SoleMixer(norm, Mamba2(c.hidden_size, c.mamba, index=mixers[layer]))
            if c.pattern[layer] in "-E":
                return SoleMLP(norm, _feed_forward(c, c.pattern[layer] == "E"))
            attention = Attention(c.hidden_size, c.heads, layer=attentions[layer], bias=False)
            return SoleAttention(norm, attention)

        super().__init__(c, block, RMSNorm(c.hidden_size, c.eps))


def _feed_forward(c: Config, has_experts: bool) -> MLP | MLPMixture:
    e = c.experts
    if not has_experts or e is None:
        return MLP(c.hidden_size, c.intermediate_size, c.activation, c.mlp_bias)
    return MLPMixture(
        c.hidden_size, e.size, e.num_experts, e.routing, c.activation,
        router=Float32Router(c.hidden_size, e.num_experts, is_corrected=True),
        shared=MLP(c.hidden_size, e.shared_size, c.activation, c.mlp_bias),
        latent_size=e.latent_size,
    )  # fmt: skip
