"""The experts of DeepSeek and its relatives: config.json's keys, names in a checkpoint, layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from atoll.errors import ConfigError
from atoll.layers import GatedMLP
from atoll.layers.moe import Float32Router, MixtureOfExperts
from atoll.layers.rotary import RopeSpec
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import FirstOf, Source
from atoll_kernels import Routing

_KINDS = ("dense", "sparse")

# For a ``WeightMap``.
FEED_FORWARD_WEIGHTS: Mapping[str, Source] = {
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
        "layers.{i}.mlp.shared_experts.gate_proj", "layers.{i}.mlp.shared_experts.up_proj",
    ),
    "blocks.{i}.mlp.shared.down": "layers.{i}.mlp.shared_experts.down_proj",
}  # fmt: skip


@dataclass(frozen=True)
class Experts:
    """layers: whether a layer has experts. shared_size: of all shared experts, which are one MLP.

    is_corrected: whether the checkpoint corrects scores, see ``atoll_kernels.route``.
    """

    layers: tuple[bool, ...]
    num_experts: int
    routing: Routing
    is_corrected: bool
    size: int
    shared_size: int

    def feed_forward(
        self, layer: int, hidden_size: int, dense_size: int, activation: str, bias: bool = False
    ) -> GatedMLP | MixtureOfExperts:
        """A layer's experts with a shared one, or its MLP of ``dense_size``.

        bias: of MLPs and shared experts.
        """
        if not self.layers[layer]:
            return GatedMLP(hidden_size, dense_size, activation, bias, bias)
        return MixtureOfExperts(
            hidden_size, self.size, self.num_experts, self.routing, activation,
            router=Float32Router(hidden_size, self.num_experts, self.is_corrected),
            shared=GatedMLP(hidden_size, self.shared_size, activation, bias, bias),
        )  # fmt: skip


def read_rope(fields: Fields, dim: int) -> RopeSpec:
    """The rotation of the shared key.

    Raises:
        ConfigError: a scaling that is not known, or one whose temperature is not.
    """
    rope = RopeSpec.from_hf(fields.raw, dim)
    name = "rope_scaling" if fields.inside("rope_scaling").raw else "rope_parameters"
    scaling = fields.inside(name)
    share = RopeSpec.partial(fields.raw, "partial_rotary_factor", default=1.0)
    if share != 1.0:
        raise ConfigError(
            f"{fields.source}: partial_rotary_factor is {share:g}; the rotated features are those "
            "of qk_rope_head_dim"
        )
    if not scaling.has("mscale_all_dim"):
        return rope
    if rope.kind not in ("default", "yarn"):
        raise ConfigError(
            f"{scaling.source}: mscale_all_dim beside scaling {rope.kind!r} is not supported"
        )
    if rope.kind == "yarn" and not scaling.has("factor"):
        raise ConfigError(f"{scaling.source}: mscale_all_dim needs factor")
    return rope


def read_experts(fields: Fields, kind: str, num_layers: int) -> Experts:
    """Which layers have experts, and how they are chosen.

    Raises:
        ConfigError: a way of routing that the family does not have, or groups that do not fit.
    """
    f, is_second = fields, kind == "deepseek_v2"
    num_experts = f.size("n_routed_experts", most=MAX_LAYERS)
    f.only("scoring_func", "softmax" if is_second else "sigmoid")
    f.only("moe_layer_freq", 1)
    size = f.size("moe_intermediate_size")
    return Experts(
        layers=_layers(f, kind, num_layers),
        num_experts=num_experts,
        routing=_second(f, num_experts) if is_second else _third(f, num_experts),
        is_corrected=not is_second,
        size=size,
        shared_size=size * f.size("n_shared_experts", most=MAX_LAYERS),
    )


def _layers(f: Fields, kind: str, num_layers: int) -> tuple[bool, ...]:
    num_dense = f.count("first_k_dense_replace", default=1 if kind == "glm4_moe_lite" else None)
    if kind != "glm4_moe_lite":
        return tuple(layer >= num_dense for layer in range(num_layers))
    kinds = f.texts("mlp_layer_types")
    if not f.has("mlp_layer_types"):
        # transformers does not read the number.
        f.only("first_k_dense_replace", 1)
        return tuple(layer >= 1 for layer in range(num_layers))
    if len(kinds) != num_layers or set(kinds) - set(_KINDS):
        expected = f"one of {', '.join(_KINDS)} for each of num_hidden_layers, {num_layers}"
        raise f.wrong(expected, "mlp_layer_types")
    return tuple(kind == "sparse" for kind in kinds)


def _second(f: Fields, num_experts: int) -> Routing:
    """Softmax, and shares that do not sum to one."""
    # The code published with the files makes them sum to one, transformers does not.
    f.only("norm_topk_prob", False)
    method = f.text("topk_method", default="greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise f.wrong("greedy or group_limited_greedy", "topk_method")
    groups = (1, 1) if method == "greedy" else _groups(f, num_experts, 1)
    return Routing(
        _top_k(f, num_experts, groups), "softmax", renormalize=False,
        scaling=f.number("routed_scaling_factor"), num_groups=groups[0], top_groups=groups[1],
    )  # fmt: skip


def _third(f: Fields, num_experts: int) -> Routing:
    """Sigmoids that are corrected where experts are chosen."""
    f.only("topk_method", "noaux_tc")
    groups = _groups(f, num_experts, 2)
    return Routing(
        _top_k(f, num_experts, groups), "sigmoid",
        renormalize=f.flag("norm_topk_prob"), scaling=f.number("routed_scaling_factor"),
        num_groups=groups[0], top_groups=groups[1], best_of_group=2,
    )  # fmt: skip


def _groups(f: Fields, num_experts: int, least: int) -> tuple[int, int]:
    """The number of groups, each of ``least`` experts or more, and how many of them are used."""
    num_groups = f.size("n_group", most=num_experts)
    each = f.divided(num_experts, ("n_routed_experts",), num_groups, ("n_group",))
    if each < least:
        raise ConfigError(
            f"{f.source}: n_routed_experts is {num_experts} and n_group {num_groups}; expected "
            f"{least} experts or more in each group"
        )
    return num_groups, f.size("topk_group", most=num_groups)


def _top_k(f: Fields, num_experts: int, groups: tuple[int, int]) -> int:
    num_groups, top_groups = groups
    return f.size("num_experts_per_tok", most=num_experts // num_groups * top_groups)
