"""Models whose layers are an attention and an MLP or experts, and what single ones need besides.

Source: llama.cpp's converters, and the graphs in its src/models, for what metadata does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.errors import UnsupportedModel
from atoll.weights.gguf.architecture import (
    Architecture,
    regrouped,
    unpaired_keys,
    unpaired_queries,
)
from atoll.weights.gguf.file import GgufFile

PAIRED = {"attn_q": unpaired_queries, "attn_k": unpaired_keys}
BIASES = {"attention_bias": "attn_q.bias", "mlp_bias": "ffn_up.bias"}
_LAYER_NORM = "attention.layer_norm_epsilon"
_EXPERTS = {
    "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}  # fmt: skip
_WINDOW = {"attention.sliding_window": "sliding_window"}
_PATTERN = "attention.sliding_window_pattern"


def _scores_by_size(deepest: int, file: GgufFile, config: dict[str, Any]) -> None:
    """Gemma's largest models divide scores by another width, which no key says."""
    width = config["head_dim"]
    if config["num_hidden_layers"] == deepest:
        width = config["hidden_size"] // config["num_attention_heads"]
    config["query_pre_attn_scalar"] = width


def _gemma2(file: GgufFile, config: dict[str, Any]) -> None:
    _scores_by_size(46, file, config)


def _gemma3(file: GgufFile, config: dict[str, Any]) -> None:
    _scores_by_size(62, file, config)
    local = file.metadata.get("gemma3.rope.freq_base_swa", 10000.0)
    config["rope_local_base_freq"] = float(local)
    _layer_types(file, config, 6)


def _layer_types(file: GgufFile, config: dict[str, Any], period: int) -> None:
    """Which layers have a window: by a flag of each, by a period, or by the family's own."""
    pattern = file.metadata.get(f"{file.architecture}.{_PATTERN}", period)
    num_layers = config["num_hidden_layers"]
    if not isinstance(pattern, list):
        pattern = [(layer + 1) % int(pattern) != 0 for layer in range(num_layers)]
    if len(pattern) != num_layers:
        raise UnsupportedModel(
            f"{file.path}: {file.architecture}.{_PATTERN} has {len(pattern)} flags, and there are "
            f"{num_layers} layers"
        )
    kinds = ("full_attention", "sliding_attention")
    config["layer_types"] = [kinds[bool(is_windowed)] for is_windowed in pattern]


def _cohere2(file: GgufFile, config: dict[str, Any]) -> None:
    _layer_types(file, config, 4)


def _olmo(file: GgufFile, config: dict[str, Any]) -> None:
    """OLMo 3 is OLMo 2 with windows, and a scaling of the other layers' rotation alone."""
    if "sliding_window" not in config:
        return
    _layer_types(file, config, 4)
    theta = config.pop("rope_theta")
    scaling = config.pop("rope_scaling", {"rope_type": "default"})
    config |= {
        "model_type": "olmo3", "architectures": ["Olmo3ForCausalLM"],
        "rope_parameters": {
            "full_attention": {**scaling, "rope_theta": theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": theta},
        },
    }  # fmt: skip


def _phi3(file: GgufFile, config: dict[str, Any]) -> None:
    # Zero stands for none.
    config["sliding_window"] = config.get("sliding_window") or None


def _falcon(file: GgufFile, config: dict[str, Any]) -> None:
    is_grouped = config["num_kv_heads"] != 1
    has_two_norms = "blk.0.attn_norm_2.weight" in file.tensors
    config |= {
        "new_decoder_architecture": is_grouped or has_two_norms, "multi_query": not is_grouped,
        "num_ln_in_parallel_attn": 2 if has_two_norms else 1,
    }  # fmt: skip


def _mpt(file: GgufFile, config: dict[str, Any]) -> None:
    bias = config.pop("alibi_bias_max", 0.0)
    attention: dict[str, Any] = {"clip_qkv": config.pop("clip_qkv", None), "alibi": bias > 0}
    if bias > 0:
        attention["alibi_bias_max"] = bias
    heads, kv_heads = config["n_heads"], config.pop("kv_n_heads")
    if kv_heads != heads:
        attention |= {"attn_type": "grouped_query_attention", "kv_n_heads": kv_heads}
    names = {"attn_config": attention, "learned_pos_emb": not bias > 0}
    config |= {**names, "no_bias": not config.pop("has_bias")}
    config["expansion_ratio"] = config.pop("intermediate_size") / config["d_model"]


def _bigcode(file: GgufFile, config: dict[str, Any]) -> None:
    if config.pop("num_key_value_heads") != 1:
        raise UnsupportedModel(
            f"{file.path}: starcoder.attention.head_count_kv is not 1, which is not supported"
        )
    config["multi_query"] = True


def _gpt_oss(file: GgufFile, config: dict[str, Any]) -> None:
    if config.get("rope_scaling", {}).get("rope_type") == "yarn":
        config["rope_scaling"]["truncate"] = False
    if file.require_tensor("blk.0.ffn_down_exps.weight").kind == "MXFP4":
        config["quantization_config"] = {"quant_method": "mxfp4"}


def _granite(file: GgufFile, config: dict[str, Any]) -> None:
    if not file.metadata.get("granite.rope.scaling.finetuned", True):
        raise UnsupportedModel(
            f"{file.path}: granite.rope.scaling.finetuned is false, which stands for attention "
            "without positions; supported: true"
        )
    shared = file.metadata.get("granite.expert_shared_feed_forward_length")
    config["intermediate_size"] = config["intermediate_size"] if shared is None else shared


def _qwen(model_type: str, hub_class: str, **rest: Any) -> Architecture:
    own = {"hidden_act": "silu", "use_sliding_window": False, **rest.pop("constants", {})}
    return Architecture(model_type, hub_class, table=model_type, constants=own, **rest)


MULTIPLIERS = {
    "attention.scale": "attention_multiplier", "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier", "logit_scale": "logits_scaling",
}  # fmt: skip
# Granite 4's models without recurrent layers are written as Granite 3's.
_UNUSED_BY_GRANITE: dict[str, str | None] = dict.fromkeys((
    "ssm.conv_kernel", "ssm.state_size", "ssm.group_count", "ssm.inner_size", "ssm.time_step_rank",
    "expert_count", "expert_used_count", "expert_shared_feed_forward_length",
))  # fmt: skip
_SILU = {"hidden_act": "silu"}
_GPT2_KEYS = {
    "context_length": "n_positions", "feed_forward_length": "n_inner", _LAYER_NORM:
    "layer_norm_epsilon", "attention.head_count": "n_head", "block_count": "n_layer",
    "embedding_length": "n_embd",
}  # fmt: skip

ATTENTION_ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(
        "llama", "LlamaForCausalLM", keys={"expert_count": None, "expert_used_count": None},
        constants=_SILU, flags=BIASES, rows=PAIRED,
    ),
    "llama with experts": Architecture(
        "mixtral", "MixtralForCausalLM",
        keys={"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"},
        constants={**_SILU, "sliding_window": None}, rows=PAIRED,
    ),
    "qwen2": _qwen("qwen2", "Qwen2ForCausalLM"),
    "qwen2moe": _qwen(
        "qwen2_moe", "Qwen2MoeForCausalLM", constants={"norm_topk_prob": False},
        keys={**_EXPERTS, "expert_shared_feed_forward_length": "shared_expert_intermediate_size"},
    ),
    "qwen3": _qwen("qwen3", "Qwen3ForCausalLM", constants={"attention_bias": False}),
    "qwen3moe": _qwen(
        "qwen3_moe", "Qwen3MoeForCausalLM", keys=_EXPERTS,
        constants={"norm_topk_prob": True, "attention_bias": False},
    ),
    "gemma": Architecture(
        "gemma", "GemmaForCausalLM", constants={"hidden_act": "gelu_pytorch_tanh"}, shift=1.0,
    ),
    "gemma2": Architecture(
        "gemma2", "Gemma2ForCausalLM", table="gemma2", shift=1.0, finish=_gemma2,
        keys={
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        constants={"hidden_activation": "gelu_pytorch_tanh"},
    ),
    "gemma3": Architecture(
        "gemma3_text", "Gemma3ForCausalLM", table="gemma3", shift=1.0, finish=_gemma3,
        keys={
            "final_logit_softcapping": "final_logit_softcapping", _PATTERN: None,
            "rope.freq_base_swa": None,
        },
        constants={"hidden_activation": "gelu_pytorch_tanh"},
    ),
    "gpt-oss": Architecture(
        "gpt_oss", "GptOssForCausalLM", table="gpt_oss", finish=_gpt_oss,
        keys={**_WINDOW, "expert_feed_forward_length": "intermediate_size"},
        constants={**_SILU, "attention_bias": True},
    ),
    "phi2": Architecture(
        "phi", "PhiForCausalLM", keys={_LAYER_NORM: "layer_norm_eps"}, has_head_dim=False,
        partial="partial_rotary_factor", constants={"hidden_act": "gelu_new"},
    ),
    "phi3": Architecture(
        "phi3", "Phi3ForCausalLM", table="phi3", keys=_WINDOW, constants=_SILU, finish=_phi3,
        partial="partial_rotary_factor", has_head_dim=False,
    ),
    "starcoder": Architecture(
        "gpt_bigcode", "GPTBigCodeForCausalLM", keys=_GPT2_KEYS, has_head_dim=False,
        has_rope=False, constants={"activation_function": "gelu_pytorch_tanh"}, finish=_bigcode,
    ),
    "starcoder2": Architecture(
        "starcoder2", "Starcoder2ForCausalLM", table="starcoder2", has_head_dim=False,
        constants={"hidden_act": "gelu_pytorch_tanh"}, flags={"use_bias": "attn_q.bias"},
    ),
    "smollm3": Architecture(
        "smollm3", "SmolLM3ForCausalLM", constants={**_SILU, "no_rope_layer_interval": 4},
        flags=BIASES, rows=PAIRED,
    ),
    "granite": Architecture(
        "granite", "GraniteForCausalLM", keys={**MULTIPLIERS, **_UNUSED_BY_GRANITE},
        constants=_SILU, flags=BIASES, rows=PAIRED, finish=_granite,
    ),
    "command-r": Architecture(
        "cohere", "CohereForCausalLM", constants=_SILU,
        keys={_LAYER_NORM: "layer_norm_eps", "logit_scale": "logit_scale"},
        flags={"attention_bias": "attn_q.bias", "use_qk_norm": "attn_q_norm.weight"},
    ),
    "cohere2": Architecture(
        "cohere2", "Cohere2ForCausalLM", constants=_SILU, finish=_cohere2,
        keys={
            _LAYER_NORM: "layer_norm_eps", "logit_scale": "logit_scale", **_WINDOW, _PATTERN: None,
        },
    ),
    "olmo2": Architecture(
        "olmo2", "Olmo2ForCausalLM", constants=_SILU, keys={**_WINDOW, _PATTERN: None},
        finish=_olmo,
    ),
    "glm4": Architecture(
        "glm4", "Glm4ForCausalLM", constants=_SILU, partial="partial_rotary_factor",
        flags={"attention_bias": "attn_q.bias"},
    ),
    "gpt2": Architecture(
        "gpt2", "GPT2LMHeadModel", table="gpt2", keys=_GPT2_KEYS, has_head_dim=False,
        has_rope=False, constants={"activation_function": "gelu_new"},
        turned=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
    ),
    "gptneox": Architecture(
        "gpt_neox", "GPTNeoXForCausalLM", has_head_dim=False, partial="rotary_pct",
        keys={
            _LAYER_NORM: "layer_norm_eps", "use_parallel_residual": "use_parallel_residual",
            "attention.head_count_kv": None,
        },
        constants={"hidden_act": "gelu"}, flags={"attention_bias": "attn_qkv.bias"},
        rows={"attn_qkv": regrouped},
    ),
    "falcon": Architecture(
        "falcon", "FalconForCausalLM", has_head_dim=False, finish=_falcon,
        keys={
            _LAYER_NORM: "layer_norm_epsilon", "attention.head_count_kv": "num_kv_heads",
            "feed_forward_length": "ffn_hidden_size",
        },
        constants={"alibi": False, "parallel_attn": True, "activation": "gelu"},
        flags={"bias": "attn_qkv.bias"}, rows={"attn_qkv": regrouped},
    ),
    "bloom": Architecture(
        "bloom", "BloomForCausalLM", table="bloom", has_head_dim=False, has_rope=False,
        keys={
            "context_length": "seq_length", "feed_forward_length": None,
            "attention.head_count_kv": None,
        },
        rows={"attn_qkv": regrouped},
    ),
    "mpt": Architecture(
        "mpt", "MPTForCausalLM", has_head_dim=False, has_rope=False, finish=_mpt,
        keys={
            "context_length": "max_seq_len", "embedding_length": "d_model",
            "block_count": "n_layers", "attention.head_count": "n_heads",
            "attention.head_count_kv": "kv_n_heads", _LAYER_NORM: "layer_norm_epsilon",
            "attention.clamp_kqv": "clip_qkv", "attention.max_alibi_bias": "alibi_bias_max",
        },
        flags={"has_bias": "attn_qkv.bias"},
    ),
}  # fmt: skip
