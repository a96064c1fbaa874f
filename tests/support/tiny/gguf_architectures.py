"""The families of ``gguf_converted``: tiny checkpoints and the keys that the converter writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tiny import gguf_converted as to
from tiny.checkpoint import Variant, all_in_float64
from tiny.deepseeks import DEEPSEEK, GROUPS, deepseek_v2
from tiny.gemma4s import GEMMA4
from tiny.gguf_converted import Converted, Keys
from tiny.gguf_files import COMMON, Config, rope_value
from tiny.hybrids import HYBRID, falcon_h1, falcon_mamba, granite4, mamba2
from tiny.qwen_nexts import QWEN_NEXT, TWO_LAYERS, qwen3_next

_BLOCKS: Keys = {"block_count": "num_blocks"}
_RMS = "attention.layer_norm_rms_epsilon"


def _where(kinds: tuple[str, ...], name: str) -> Callable[[Config], Any]:
    """A number for layers of these kinds, 0 for the others."""

    def values(c: Config) -> list[int]:
        return [c[name] if kind in kinds else 0 for kind in _kinds(c)]

    return values


def _kinds(c: Config) -> list[str]:
    pattern = c.get("layer_types") or c.get("layers_block_type") or c["hybrid_override_pattern"]
    return list(pattern)


_ATTENDS = _where(("attention", "full_attention", "*"), "num_key_value_heads")
_FEEDS = _where(("mlp", "moe", "-"), "intermediate_size")
_NONE = {"feed_forward_length": lambda c: 0, "attention.head_count": lambda c: 0}
_MAMBA = {
    "context_length": lambda c: 1 << 20, "embedding_length": "hidden_size", **_NONE,
    "block_count": "num_hidden_layers", "ssm.conv_kernel": "conv_kernel",
    "ssm.state_size": "state_size", _RMS: "layer_norm_epsilon",
}  # fmt: skip
_MAMBA1 = {
    **_MAMBA, "ssm.inner_size": lambda c: 2 * c["hidden_size"],
    "ssm.time_step_rank": "time_step_rank",
    "ssm.dt_b_c_rms": lambda c: c["model_type"] == "falcon_mamba",
}  # fmt: skip
_MAMBA2 = {
    **_MAMBA, "ssm.inner_size": lambda c: c["num_heads"] * c["head_dim"],
    "ssm.time_step_rank": "num_heads", "ssm.group_count": "n_groups",
}  # fmt: skip
_HYBRID = {
    "ssm.conv_kernel": "mamba_d_conv", "ssm.state_size": "mamba_d_state",
    "ssm.group_count": "mamba_n_groups", "ssm.time_step_rank": "mamba_n_heads",
}  # fmt: skip
_HAS_ROPE = {"rope.scaling.finetuned": lambda c: c["position_embedding_type"] == "rope"}
_GRANITE = {
    **{key: name for key, name in COMMON.items() if not key.endswith("y_length")},
    "attention.value_length": "-", "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling", "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok", "vocab_size": "vocab_size",
    "expert_shared_feed_forward_length": "shared_intermediate_size", **_HYBRID,
    "ssm.inner_size": lambda c: c["mamba_expand"] * c["hidden_size"],
    "attention.head_count_kv": _ATTENDS, **_HAS_ROPE,
    "rope.dimension_count": lambda c: c["hidden_size"] // c["num_attention_heads"],
}  # fmt: skip
_NEMOTRON = {
    **COMMON, "attention.head_count_kv": _ATTENDS, "feed_forward_length": _FEEDS,
    "ssm.conv_kernel": "conv_kernel", "ssm.state_size": "ssm_state_size",
    "ssm.group_count": "n_groups", "ssm.time_step_rank": "mamba_num_heads",
    "ssm.inner_size": lambda c: c["mamba_num_heads"] * c["mamba_head_dim"],
    _RMS: "layer_norm_epsilon", "rope.dimension_count": "head_dim",
    "rope.scaling.finetuned": lambda c: False,
}  # fmt: skip
_NEMOTRON_MOE = {
    **_NEMOTRON, "feed_forward_length": _where(("moe",), "moe_intermediate_size"),
    "expert_count": "n_routed_experts", "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size", "moe_latent_size": "moe_latent_size",
    "expert_shared_feed_forward_length": "moe_shared_expert_intermediate_size",
    "expert_shared_count": "n_shared_experts", "expert_weights_norm": "norm_topk_prob",
    "expert_weights_scale": "routed_scaling_factor", "expert_group_count": "n_group",
    "expert_group_used_count": "topk_group",
}  # fmt: skip
_LFM2 = {
    **COMMON,
    "attention.head_count_kv": _ATTENDS,
    _RMS: "norm_eps",
    "shortconv.l_cache": "conv_L_cache",
    "vocab_size": "vocab_size",
}
_SIGMOID = {"expert_gating_func": lambda c: 2}
_EXPERTS = {
    "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}  # fmt: skip
_DELTA = {
    **COMMON, **_BLOCKS, "ssm.conv_kernel": "linear_conv_kernel_dim",
    "ssm.state_size": "linear_key_head_dim", "ssm.group_count": "linear_num_key_heads",
    "ssm.time_step_rank": "linear_num_value_heads",
    "ssm.inner_size": lambda c: c["linear_value_head_dim"] * c["linear_num_value_heads"],
    "full_attention_interval": lambda c: 2,
    "rope.dimension_count": lambda c: int(c["head_dim"] * 0.25),
}  # fmt: skip
_SHARED = {"expert_shared_feed_forward_length": "shared_expert_intermediate_size"}
_SECTIONS = {"rope.dimension_sections": lambda c: [11, 11, 10, 0]}
_ROUTED = {
    "expert_count": "n_routed_experts", "expert_used_count": "num_experts_per_tok",
    "expert_shared_count": "n_shared_experts",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_weights_scale": "routed_scaling_factor",
    "expert_weights_norm": lambda c: c.get("norm_topk_prob") or None,
    "expert_group_count": "n_group", "expert_group_used_count": "topk_group",
    "leading_dense_block_count": lambda c: c.get("first_k_dense_replace", 1),
}  # fmt: skip
_LATENT: dict[str, str | Callable[[Config], Any]] = {
    **COMMON, **_BLOCKS, **_ROUTED, "attention.head_count_kv": lambda c: 1,
    "attention.q_lora_rank": "q_lora_rank", "attention.kv_lora_rank": "kv_lora_rank",
    "attention.key_length": lambda c: c["kv_lora_rank"] + c["qk_rope_head_dim"],
    "attention.value_length": "kv_lora_rank", "attention.value_length_mla": "v_head_dim",
    "attention.key_length_mla": lambda c: c["qk_nope_head_dim"] + c["qk_rope_head_dim"],
    "rope.dimension_count": "qk_rope_head_dim",
}  # fmt: skip
_YARN = {
    "rope.scaling.type": lambda c: "yarn", "rope.scaling.factor": lambda c: rope_value(c, "factor"),
    "rope.scaling.original_context_length":
        lambda c: rope_value(c, "original_max_position_embeddings"),
    "rope.scaling.yarn_log_multiplier": lambda c: 0.1 * rope_value(c, "mscale_all_dim"),
}  # fmt: skip
# Of files from before 2025, whose matrix of the latent vector is whole.
_WHOLE = {
    **_LATENT, "attention.head_count_kv": "num_attention_heads",
    "attention.key_length": _LATENT["attention.key_length_mla"],
    "attention.value_length": "v_head_dim", "attention.key_length_mla": lambda c: None,
    "attention.value_length_mla": lambda c: None,
}  # fmt: skip
_FURTHER = {"nextn_predict_layers": lambda c: 1}
_GLM = {
    **COMMON, **_BLOCKS, **_ROUTED, **_SIGMOID, **_FURTHER,
    "rope.dimension_count": lambda c: c["head_dim"] // 2,
}  # fmt: skip


def _of_kinds(windowed: str, whole: str) -> Callable[[Config], Any]:
    return lambda c: [c[windowed if k == "sliding_attention" else whole] for k in _kinds(c)]


def _widths(c: Config) -> Any:
    if not c.get("use_double_wide_mlp"):
        return c["intermediate_size"]
    size, first = c["intermediate_size"], c["num_hidden_layers"] - c["num_kv_shared_layers"]
    return [size * (1 + (layer >= first)) for layer in range(c["num_hidden_layers"])]


_GEMMA4: Keys = {
    **COMMON, "attention.shared_kv_layers": lambda c: c.get("num_kv_shared_layers", 0),
    "embedding_length_per_layer_input": lambda c: c.get("hidden_size_per_layer_input") or 0,
    "attention.sliding_window": "sliding_window", "attention.sliding_window_pattern":
        lambda c: [kind == "sliding_attention" for kind in _kinds(c)],
    "attention.key_length": "global_head_dim", "attention.value_length": "global_head_dim",
    "attention.key_length_swa": "head_dim", "attention.value_length_swa": "head_dim",
    "attention.head_count_kv": lambda c: _of_kinds(
        "num_key_value_heads", "num_global_key_value_heads"
    )(c) if c.get("num_global_key_value_heads") else c["num_key_value_heads"],
    "feed_forward_length": _widths, "expert_count": "num_experts",
    "expert_used_count": "top_k_experts", "expert_feed_forward_length": "moe_intermediate_size",
    "final_logit_softcapping": "final_logit_softcapping",
    "rope.dimension_count": "global_head_dim", "rope.dimension_count_swa": "head_dim",
    "rope.freq_base": lambda c: c["rope_parameters"]["full_attention"]["rope_theta"],
    "rope.freq_base_swa": lambda c: c["rope_parameters"]["sliding_attention"]["rope_theta"],
}  # fmt: skip

# Variant -> how it is written.
CONVERTED: Mapping[str, Converted] = {
    "mamba": Converted("mamba", _MAMBA1, to.mamba),
    "falcon-mamba-7b": Converted("mamba", _MAMBA1, to.mamba),
    "mamba2-plain": Converted("mamba2", _MAMBA2, to.mamba2),
    "granite-4-h": Converted("granitehybrid", _GRANITE, to.granite4),
    "granite-4-h-dense": Converted("granitehybrid", _GRANITE, to.granite4),
    "granite-4": Converted("granite", _GRANITE, to.granite4),
    "falcon-h1": Converted("falcon-h1", {
        **COMMON, **_HYBRID, "ssm.inner_size": "mamba_d_ssm", "vocab_size": "vocab_size",
    }, to.falcon_h1),
    "falcon-h1-34b": Converted("falcon-h1", {
        **COMMON, **_HYBRID, "ssm.inner_size": "mamba_d_ssm",
    }, to.falcon_h1),
    "nemotron-h": Converted("nemotron_h", _NEMOTRON, to.nemotron),
    "nemotron-3": Converted("nemotron_h_moe", _NEMOTRON_MOE, to.nemotron),
    "lfm2": Converted("lfm2", _LFM2, to.lfm2),
    "lfm2-moe": Converted("lfm2moe", {
        **_LFM2, **_EXPERTS, **_SIGMOID, "leading_dense_block_count": "num_dense_layers",
    }, to.lfm2),
    "qwen3-next-80b": Converted("qwen3next", {**_DELTA, **_EXPERTS, **_SHARED}, to.qwen_next),
    "qwen3.5": Converted("qwen35", {**_DELTA, **_SECTIONS}, to.qwen3_5),
    "qwen3.5-moe": Converted(
        "qwen35moe", {**_DELTA, **_SECTIONS, **_EXPERTS, **_SHARED}, to.qwen3_5
    ),
    "deepseek-v2-lite": Converted("deepseek2", {**_WHOLE, **_YARN}, to.same),
    "deepseek-v2-groups": Converted("deepseek2", _LATENT, to.deepseek),
    "deepseek-v3": Converted("deepseek2", {**_LATENT, **_YARN, **_SIGMOID}, to.deepseek),
    "kimi-k2": Converted("deepseek2", {**_LATENT, **_SIGMOID}, to.deepseek),
    "glm-4.7-flash": Converted("deepseek2", {**_LATENT, **_FURTHER}, to.deepseek, num_further=1),
    "glm-4.5": Converted("glm4moe", _GLM, to.same, num_further=1),
    **{name: Converted("gemma4", _GEMMA4, to.gemma4)
       for name in ("gemma4-e2b", "gemma4-26b")},
}  # fmt: skip

_AS_CONVERTED = (
    Variant("falcon-mamba-7b", falcon_mamba),
    Variant("mamba2-plain", mamba2),
    Variant("granite-4-h-dense", granite4),
    Variant("falcon-h1-34b", lambda: falcon_h1(
        mamba_rms_norm=True, mamba_n_groups=2, mamba_norm_before_gate=False)),
    Variant("qwen3-next-80b", lambda: qwen3_next(**TWO_LAYERS), around=all_in_float64),
    Variant("deepseek-v2-groups", lambda: deepseek_v2(**GROUPS, topk_method="group_limited_greedy",
                                                      attention_bias=True)),
)  # fmt: skip
CONVERTED_VARIANTS = {
    variant.name: variant for variant in (*HYBRID, *QWEN_NEXT, *DEEPSEEK, *GEMMA4, *_AS_CONVERTED)
}
