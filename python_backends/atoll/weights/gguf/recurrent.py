"""Models with recurrent layers: Mamba, short convolutions, Gated DeltaNet; hybrid and alone.

llama.cpp keeps decays as they are used, ``-exp(A_log)``, and convolutions as matrices. What it does
not write down are layers without attention: these have 0 key and value heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from atoll.errors import UnsupportedModel
from atoll.weights.gguf.architecture import Architecture, Change, Heads, Sizes, Source
from atoll.weights.gguf.architectures import MULTIPLIERS, PAIRED
from atoll.weights.gguf.file import GgufFile

_SILU = {"hidden_act": "silu"}
_CONV_BIAS = "ssm_conv1d.bias"
_SCAN = ("ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank")
_HYBRID_SCAN = (*_SCAN, "ssm.group_count")
_EPSILON = "attention.layer_norm_rms_epsilon"
_NORM_EPSILON = {_EPSILON: "layer_norm_epsilon", "attention.layer_norm_epsilon": None}


def _decay(found: Tensor) -> Tensor:
    return (-found.float()).log()


def _channels(found: Tensor) -> Tensor:
    return found.unsqueeze(1)


_MAMBA: Mapping[str, Change] = {"ssm_a": _decay, "ssm_conv1d.weight": _channels}
# One decay and one skip of a head; the norm's scales are in groups.
_MAMBA2: Mapping[str, Change] = {
    "ssm_a": lambda found: _decay(found).flatten(), "ssm_d": Tensor.flatten,
    "ssm_norm.weight": Tensor.flatten, "ssm_conv1d.weight": _channels,
}  # fmt: skip


def _no_attention(file: GgufFile) -> Heads:
    return Heads(1, 1, 1)


def _attends(file: GgufFile) -> list[bool]:
    """Of each layer."""
    return [n > 0 for n in file.of_layers("attention.head_count_kv", file.num_layers)]


def _mamba(file: GgufFile, config: dict[str, Any]) -> None:
    del config["num_attention_heads"]
    if file.metadata.get("mamba.ssm.dt_b_c_rms", False):
        config |= {"model_type": "falcon_mamba", "architectures": ["FalconMambaForCausalLM"]}


def _expansion(file: GgufFile, inner_size: int) -> int:
    hidden = file.number(f"{file.architecture}.embedding_length")
    if inner_size % hidden:
        raise UnsupportedModel(
            f"{file.path}: {file.architecture}.ssm.inner_size is {inner_size}; supported: a "
            f"multiple of embedding_length, {hidden}"
        )
    return inner_size // hidden


def _mamba2(file: GgufFile, config: dict[str, Any]) -> None:
    del config["num_attention_heads"]
    inner_size = file.number("mamba2.ssm.inner_size")
    config["expand"] = _expansion(file, inner_size)
    config["head_dim"] = inner_size // file.number("mamba2.ssm.time_step_rank")


def _granite4(file: GgufFile, config: dict[str, Any]) -> None:
    config["layer_types"] = ["attention" if each else "mamba" for each in _attends(file)]
    config["mamba_expand"] = _expansion(file, file.number(f"{file.architecture}.ssm.inner_size"))
    # What says elsewhere how a file's scaling was trained switches the rotation on here.
    has_rope = file.metadata.get(f"{file.architecture}.rope.scaling.finetuned", True)
    config["position_embedding_type"] = "rope" if has_rope else "nope"
    config.setdefault("num_local_experts", 0)


def _nemotron_h(file: GgufFile, config: dict[str, Any]) -> None:
    sizes = file.of_layers("feed_forward_length", file.num_layers)
    feeds = "moe" if file.architecture == "nemotron_h_moe" else "mlp"
    config["layers_block_type"] = [
        "attention" if attends else feeds if size else "mamba"
        for attends, size in zip(_attends(file), sizes, strict=True)
    ]
    config["intermediate_size"] = max(sizes)
    heads = file.number(f"{file.architecture}.ssm.time_step_rank")
    config["mamba_head_dim"] = file.number(f"{file.architecture}.ssm.inner_size") // heads


def _lfm2(file: GgufFile, config: dict[str, Any]) -> None:
    config["layer_types"] = ["full_attention" if each else "conv" for each in _attends(file)]


def _lfm2_moe(file: GgufFile, config: dict[str, Any]) -> None:
    _lfm2(file, config)
    _check_sigmoid(file)


def _check_sigmoid(file: GgufFile) -> None:
    key = f"{file.architecture}.expert_gating_func"
    if file.metadata.get(key, 2) != 2:
        raise UnsupportedModel(f"{file.path}: {key} is {file.metadata[key]}; supported: 2, sigmoid")


def _qwen_next(file: GgufFile, config: dict[str, Any]) -> None:
    interval = config.pop("full_attention_interval", 4)
    config["layer_types"] = [
        "linear_attention" if (layer + 1) % interval else "full_attention"
        for layer in range(file.num_layers)
    ]
    values = file.number(f"{file.architecture}.ssm.inner_size")
    config["linear_value_head_dim"] = values // config["linear_num_value_heads"]


def _value_heads(sizes: Sizes, dim: int) -> Tensor:
    """Rows of value heads, which the hub has behind one another for each key head."""
    keys = sizes.config["linear_num_key_heads"]
    heads = torch.arange(sizes.config["linear_num_value_heads"]).view(-1, keys).t().flatten()
    return (heads[:, None] * dim + torch.arange(dim)).flatten()


def _value_features(sizes: Sizes) -> Tensor:
    return _value_heads(sizes, sizes.config["linear_value_head_dim"])


def _mixed(sizes: Sizes) -> Tensor:
    """Of [queries; keys; values]."""
    c = sizes.config
    width = 2 * c["linear_num_key_heads"] * c["linear_key_head_dim"]
    return torch.cat((torch.arange(width), width + _value_features(sizes)))


def _each_head(sizes: Sizes) -> Tensor:
    return _value_heads(sizes, 1)


_HYBRID_MAMBA2: dict[str, str | None] = {
    "ssm.conv_kernel": "mamba_d_conv", "ssm.state_size": "mamba_d_state",
    "ssm.group_count": "mamba_n_groups", "ssm.time_step_rank": "mamba_n_heads",
}  # fmt: skip
_NEMOTRON: dict[str, str | None] = {
    **_NORM_EPSILON, "feed_forward_length": None, "ssm.conv_kernel": "conv_kernel",
    "ssm.state_size": "ssm_state_size", "ssm.group_count": "n_groups",
    "ssm.time_step_rank": "mamba_num_heads", "ssm.inner_size": None,
}  # fmt: skip
_NEMOTRON_FLAGS = {
    "mlp_bias": "ffn_up.bias",
    "use_bias": "ssm_in.bias",
    "use_conv_bias": _CONV_BIAS,
}
_NEMOTRON_MOE: dict[str, str | None] = {
    "expert_used_count": "num_experts_per_tok", "expert_count": "n_routed_experts",
    "expert_feed_forward_length": "moe_intermediate_size", "expert_shared_count":
    "n_shared_experts", "expert_shared_feed_forward_length": "moe_shared_expert_intermediate_size",
    "expert_weights_norm": "norm_topk_prob", "expert_weights_scale": "routed_scaling_factor",
    "expert_group_count": "n_group", "expert_group_used_count": "topk_group",
    "moe_latent_size": "moe_latent_size",
}  # fmt: skip
_LFM2_MOE: dict[str, str | None] = {
    "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size", "expert_gating_func": None,
    "leading_dense_block_count": "num_dense_layers",
}  # fmt: skip
_DELTA: dict[str, str | None] = {
    "ssm.conv_kernel": "linear_conv_kernel_dim", "ssm.state_size": "linear_key_head_dim",
    "ssm.group_count": "linear_num_key_heads", "ssm.time_step_rank": "linear_num_value_heads",
    "ssm.inner_size": None, "full_attention_interval": "full_attention_interval",
    # Text has the same position along all axes.
    "rope.dimension_sections": None,
}  # fmt: skip
_DELTA_EXPERTS: dict[str, str | None] = {
    "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}  # fmt: skip
_DELTA_CHANGES: Mapping[str, Change] = {"ssm_a": _decay, "ssm_conv1d.weight": _channels}
_DELTA_FLAGS = {"attention_bias": "attn_output.bias"}


def _delta(model_type: str, hub_class: str, **rest: Any) -> Architecture:
    return Architecture(
        model_type, hub_class, constants=_SILU, flags=_DELTA_FLAGS, shift=1.0, finish=_qwen_next,
        partial="partial_rotary_factor", changes=_DELTA_CHANGES, required=_HYBRID_SCAN, **rest,
    )  # fmt: skip


# llama.cpp repeats key heads as a whole, and has value heads in the order that follows.
_TILED: dict[str, Any] = {
    "rows": {
        "attn_qkv": _mixed, "ssm_conv1d": _mixed, "attn_gate": _value_features,
        "ssm_beta": _each_head, "ssm_alpha": _each_head, "ssm_a": _each_head, "ssm_dt": _each_head,
    },
    "columns": {"ssm_out": _value_features},
}  # fmt: skip


def _experts_of(stem: str, names: Mapping[str, str]) -> dict[str, tuple[Source, ...]]:
    return {f"{stem}.{hub}": (Source((part,)),) for hub, part in names.items()}


_SHARED_MLP = "model.layers.{i}.shared_mlp."
_SPARSE_MLP = "model.layers.{i}.block_sparse_moe."

RECURRENT_ARCHITECTURES: Mapping[str, Architecture] = {
    "mamba": Architecture(
        "mamba", "MambaForCausalLM", table="mamba", heads=_no_attention, has_head_dim=False,
        has_rope=False, finish=_mamba, changes=_MAMBA, required=_SCAN,
        keys={
            "feed_forward_length": None, "attention.head_count": None, "ssm.dt_b_c_rms": None,
        },
        constants=_SILU, flags={"use_conv_bias": _CONV_BIAS, "use_bias": "ssm_in.bias"},
    ),
    "mamba2": Architecture(
        "mamba2", "Mamba2ForCausalLM", table="mamba", heads=_no_attention, has_head_dim=False,
        has_rope=False, finish=_mamba2, changes=_MAMBA2, required=_HYBRID_SCAN,
        keys={
            "feed_forward_length": None, "attention.head_count": None, "ssm.inner_size": None,
            "ssm.time_step_rank": "num_heads", "ssm.group_count": "n_groups",
        },
        constants=_SILU, flags={"use_conv_bias": _CONV_BIAS, "use_bias": "ssm_in.bias"},
    ),
    "granitehybrid": Architecture(
        "granitemoehybrid", "GraniteMoeHybridForCausalLM", is_hybrid=True, finish=_granite4,
        keys={
            **MULTIPLIERS, **_HYBRID_MAMBA2, "ssm.inner_size": None,
            "expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok",
            "expert_shared_feed_forward_length": "shared_intermediate_size",
        },
        constants=_SILU, rows=PAIRED, changes=_MAMBA2, required=_HYBRID_SCAN,
        flags={
            "attention_bias": "attn_q.bias", "mamba_conv_bias": _CONV_BIAS,
            "mamba_proj_bias": "ssm_in.bias",
        },
        places={
            f"{_SHARED_MLP}input_linear": (
                Source(("ffn_gate_shexp", "ffn_up_shexp")), Source(("ffn_gate", "ffn_up")),
            ),
            f"{_SHARED_MLP}output_linear": (Source(("ffn_down_shexp",)), Source(("ffn_down",))),
            f"{_SPARSE_MLP}input_linear": (Source(("ffn_gate_exps", "ffn_up_exps")),),
            f"{_SPARSE_MLP}output_linear": (Source(("ffn_down_exps",)),),
            f"{_SPARSE_MLP}router.layer": (Source(("ffn_gate_inp",)),),
        },
    ),
    # The converter multiplies weights by the family's many factors, which are 1 then.
    "falcon-h1": Architecture(
        "falcon_h1", "FalconH1ForCausalLM", keys={**_HYBRID_MAMBA2, "ssm.inner_size":
                                                  "mamba_d_ssm"},
        constants={**_SILU, "mamba_norm_before_gate": False}, changes=_MAMBA2,
        required=_HYBRID_SCAN,
        flags={"mamba_rms_norm": "ssm_norm.weight", "mamba_conv_bias": _CONV_BIAS},
        places={"model.layers.{i}.pre_ff_layernorm": (Source(("ffn_norm",)),)},
    ),
    "nemotron_h": Architecture(
        "nemotron_h", "NemotronHForCausalLM", is_hybrid=True, keys=_NEMOTRON, has_rope=False,
        constants={"mlp_hidden_act": "relu2"}, flags=_NEMOTRON_FLAGS, rows=PAIRED,
        changes=_MAMBA2, finish=_nemotron_h, required=_HYBRID_SCAN,
    ),
    "nemotron_h_moe": Architecture(
        "nemotron_h", "NemotronHForCausalLM", is_hybrid=True, has_rope=False,
        keys={**_NEMOTRON, **_NEMOTRON_MOE}, constants={"mlp_hidden_act": "relu2"},
        flags=_NEMOTRON_FLAGS, rows=PAIRED, changes=_MAMBA2, finish=_nemotron_h,
        required=_HYBRID_SCAN,
        places=_experts_of(
            "backbone.layers.{i}.mixer.experts",
            {"up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"},
        ),
    ),
    "lfm2": Architecture(
        "lfm2", "Lfm2ForCausalLM", table="lfm2", is_hybrid=True, finish=_lfm2,
        required=("shortconv.l_cache",), keys={_EPSILON: "norm_eps"},
        constants={"block_auto_adjust_ff_dim": False}, flags={"conv_bias": "shortconv.conv.bias"},
        changes={"shortconv.conv.weight": _channels},
    ),
    "lfm2moe": Architecture(
        "lfm2_moe", "Lfm2MoeForCausalLM", table="lfm2", is_hybrid=True, finish=_lfm2_moe,
        required=("shortconv.l_cache",), keys={**_LFM2_MOE, _EPSILON: "norm_eps"},
        constants={"norm_topk_prob": True, "routed_scaling_factor": 1.0},
        flags={"conv_bias": "shortconv.conv.bias", "use_expert_bias": "exp_probs_b.bias"},
        changes={"shortconv.conv.weight": _channels},
        places=_experts_of(
            "model.layers.{i}.feed_forward.experts",
            {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"},
        ),
    ),
    "qwen3next": _delta("qwen3_next", "Qwen3NextForCausalLM", keys={**_DELTA, **_DELTA_EXPERTS}),
    "qwen35": _delta("qwen3_5_text", "Qwen3_5ForCausalLM", keys=_DELTA, **_TILED),
    "qwen35moe": _delta(
        "qwen3_5_moe_text", "Qwen3_5MoeForCausalLM", keys={**_DELTA, **_DELTA_EXPERTS}, **_TILED,
    ),
}  # fmt: skip
