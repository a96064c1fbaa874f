"""Qwen3-Next, Qwen3.5 and Qwen3.6, dense and with experts: three layers of Gated DeltaNet to one
that attends.

Source: config fields and layer names of transformers' ``Qwen3NextForCausalLM``,
``Qwen3_5ForConditionalGeneration`` and ``Qwen3_5MoeForConditionalGeneration``, of which the text
model alone is built; Qwen team 2025 and 2026. Norms are zero-centred, but for those behind the
linear attention; the output of attention is gated. Files have layers for the prediction of several
tokens, ``mtp``, which are not used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atoll.layers import CausalLM, DecoderConfig, GatedMLP, RMSNorm
from atoll.layers.block import MixerBlock, PreNormBlock
from atoll.layers.gated_attention import GatedAttention
from atoll.layers.gated_delta import DeltaHeads, GatedDeltaNet
from atoll.layers.moe import GatedExpert, MixtureOfExperts
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import check_width, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import TEXT_PREFIXES, FirstOf, Reorder, WeightMap
from atoll_kernels import Routing


def _attention_rows(c: "Config") -> Tensor:
    """[q; gate; k; v] of what the file has as [q and gate of each head; k; v]."""
    both = torch.arange(2 * c.heads.width).view(-1, 2, c.heads.head_dim)
    q, gate = both.transpose(0, 1).flatten(1).unbind()
    kv = 2 * c.heads.width + torch.arange(2 * c.heads.kv_width)
    return torch.cat((q, gate, kv))


def _interleaved_rows(c: "Config", *widths: int) -> Tensor:
    """Groups of rows one behind the other, which the file has key head by key head."""
    rows = torch.arange(c.linear_heads.num_key * sum(widths)).view(-1, sum(widths))
    return torch.cat([part.flatten() for part in rows.split(widths, 1)])


def _qkvz_rows(c: "Config") -> Tensor:
    h = c.linear_heads
    value = h.value_width // h.num_key
    return _interleaved_rows(c, h.key_dim, h.key_dim, value, value)


def _ba_rows(c: "Config") -> Tensor:
    count = c.linear_heads.num_value // c.linear_heads.num_key
    return _interleaved_rows(c, count, count)


WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    prefixes=("model.", *TEXT_PREFIXES, ""),
    modules={
        "embed": "embed_tokens",
        "blocks.{i}.norm1": "layers.{i}.input_layernorm",
        "blocks.{i}.attention.qkv": Reorder(
            (
                "layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
                "layers.{i}.self_attn.v_proj",
            ),
            _attention_rows,
        ),
        "blocks.{i}.attention.q_norm": "layers.{i}.self_attn.q_norm",
        "blocks.{i}.attention.k_norm": "layers.{i}.self_attn.k_norm",
        "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
        "blocks.{i}.mixer.qkvz": FirstOf(
            ("layers.{i}.linear_attn.in_proj_qkv", "layers.{i}.linear_attn.in_proj_z"),
            Reorder("layers.{i}.linear_attn.in_proj_qkvz", _qkvz_rows),
        ),
        "blocks.{i}.mixer.ba": FirstOf(
            ("layers.{i}.linear_attn.in_proj_b", "layers.{i}.linear_attn.in_proj_a"),
            Reorder("layers.{i}.linear_attn.in_proj_ba", _ba_rows),
        ),
        "blocks.{i}.mixer.conv": "layers.{i}.linear_attn.conv1d",
        "blocks.{i}.mixer.gates": "layers.{i}.linear_attn",
        "blocks.{i}.mixer.norm": "layers.{i}.linear_attn.norm",
        "blocks.{i}.mixer.out": "layers.{i}.linear_attn.out_proj",
        "blocks.{i}.norm2": "layers.{i}.post_attention_layernorm",
        "blocks.{i}.mlp.gate_up": ("layers.{i}.mlp.gate_proj", "layers.{i}.mlp.up_proj"),
        "blocks.{i}.mlp.down": "layers.{i}.mlp.down_proj",
        "blocks.{i}.mlp.router": "layers.{i}.mlp.gate",
        "blocks.{i}.mlp.experts.{e}.gate_up": FirstOf(
            ("layers.{i}.mlp.experts.{e}.gate_proj", "layers.{i}.mlp.experts.{e}.up_proj"),
            "layers.{i}.mlp.experts.gate_up_proj[{e}]",
        ),
        "blocks.{i}.mlp.experts.{e}.down": FirstOf(
            "layers.{i}.mlp.experts.{e}.down_proj", "layers.{i}.mlp.experts.down_proj[{e}]",
        ),
        "blocks.{i}.mlp.shared.gate_up": (
            "layers.{i}.mlp.shared_expert.gate_proj", "layers.{i}.mlp.shared_expert.up_proj",
        ),
        "blocks.{i}.mlp.shared.down": "layers.{i}.mlp.shared_expert.down_proj",
        "blocks.{i}.mlp.shared.weight": "layers.{i}.mlp.shared_expert_gate",
        "norm": "norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip


@dataclass(frozen=True)
class Experts:
    """layers: whether a layer has experts. shared_size: of the shared expert."""

    layers: tuple[bool, ...]
    num_experts: int
    routing: Routing
    size: int
    shared_size: int


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. attends: whether a layer does, or is recurrent."""

    bias: bool
    attends: tuple[bool, ...]
    linear_heads: DeltaHeads
    conv_width: int
    rope: RopeSpec
    experts: Experts | None

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling or a kind of layer that is not known."""
        f, kind = Fields(raw), str(raw.get("model_type"))
        hidden_size = f.size("hidden_size")
        num_layers = f.size("num_hidden_layers", most=MAX_LAYERS)
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        share = RopeSpec.partial(raw, "partial_rotary_factor", default=0.25)
        width = int(heads.head_dim * share)
        check_width(f, width, heads.head_dim, "partial_rotary_factor")
        rope = RopeSpec.from_hf(raw, width, is_partial=True)
        experts = None if kind == "qwen3_5_text" else _experts(f, kind, num_layers)
        is_dense = experts is None or not all(experts.layers)
        f.only("attn_output_gate", True)
        f.only("is_causal", True)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size") if is_dense else 0,
            num_layers=num_layers,
            heads=heads,
            eps=f.number("rms_norm_eps", default=1e-6),
            # Also of the convolutions, whose kernels know no other.
            activation=f.only("hidden_act", "silu"),
            max_positions=rope.reach,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            bias=f.flag("attention_bias", default=False),
            attends=_attends(f, num_layers),
            linear_heads=_linear_heads(f),
            conv_width=f.size("linear_conv_kernel_dim"),
            rope=rope,
            experts=experts,
        )

    @property
    def num_experts(self) -> int:
        """Of a layer that has experts."""
        return 0 if self.experts is None else self.experts.num_experts


def _attends(f: Fields, num_layers: int) -> tuple[bool, ...]:
    kinds = f.texts("layer_types")
    if not f.has("layer_types"):
        interval = f.size("full_attention_interval", default=4)
        return tuple((layer + 1) % interval == 0 for layer in range(num_layers))
    if len(kinds) != num_layers or set(kinds) - {"linear_attention", "full_attention"}:
        raise f.wrong(
            f"linear_attention or full_attention for each of num_hidden_layers, {num_layers}",
            "layer_types",
        )
    return tuple(kind == "full_attention" for kind in kinds)


def _linear_heads(f: Fields) -> DeltaHeads:
    num_value, num_key = f.size("linear_num_value_heads"), f.size("linear_num_key_heads")
    f.divided(num_value, ("linear_num_value_heads",), num_key, ("linear_num_key_heads",))
    return DeltaHeads(
        num_key, num_value, f.size("linear_key_head_dim"), f.size("linear_value_head_dim")
    )


def _experts(f: Fields, kind: str, num_layers: int) -> Experts | None:
    is_next = kind == "qwen3_next"
    num_experts = f.count("num_experts", most=MAX_LAYERS)
    if is_next and num_experts == 0:
        return None
    step = f.size("decoder_sparse_step", default=1) if is_next else 1
    dense = f.counts("mlp_only_layers") if is_next else ()
    return Experts(
        layers=tuple((i + 1) % step == 0 and i not in dense for i in range(num_layers)),
        num_experts=num_experts,
        routing=Routing(
            f.size("num_experts_per_tok", most=num_experts),
            renormalize=f.flag("norm_topk_prob", default=True) if is_next else True,
        ),
        size=f.size("moe_intermediate_size"),
        shared_size=f.size("shared_expert_intermediate_size"),
    )


class Model(CausalLM):
    """Pre-norm blocks that attend or keep a state, and a gated MLP or experts."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)

        def norm(size: int) -> RMSNorm:
            return RMSNorm(size, c.eps, is_zero_centred=True)

        def block(layer: int) -> PreNormBlock | MixerBlock:
            index = sum(c.attends[i] == c.attends[layer] for i in range(layer))
            if c.attends[layer]:
                attention = GatedAttention(
                    c.hidden_size, c.heads, layer=index, bias=c.bias, rotary=rotary,
                    qk_norms=(norm(c.heads.head_dim), norm(c.heads.head_dim)),
                )  # fmt: skip
                return PreNormBlock(
                    norm(c.hidden_size), attention, norm(c.hidden_size), _feed_forward(c, layer)
                )
            mixer = GatedDeltaNet(
                c.hidden_size, c.linear_heads, index=index, conv_width=c.conv_width, eps=c.eps
            )
            return MixerBlock(
                norm(c.hidden_size), mixer, norm(c.hidden_size), _feed_forward(c, layer)
            )

        super().__init__(c, block, norm(c.hidden_size))


def _feed_forward(c: Config, layer: int) -> nn.Module:
    e = c.experts
    if e is None or not e.layers[layer]:
        return GatedMLP(c.hidden_size, c.intermediate_size, c.activation)
    return MixtureOfExperts(
        c.hidden_size, e.size, e.num_experts, e.routing, c.activation,
        shared=GatedExpert(c.hidden_size, e.shared_size, c.activation),
    )  # fmt: skip
