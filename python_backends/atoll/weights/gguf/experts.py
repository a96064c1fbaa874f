"""DeepSeek's family and those that have its experts: latent attention, shared and routed experts.

llama.cpp divides the matrix that makes keys and values of a latent vector, with the part for keys
turned; files from before 2025 have it whole. Files may hold layers that predict further tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from atoll.errors import UnsupportedModel
from atoll.weights.gguf.architecture import Architecture, Heads, Source
from atoll.weights.gguf.file import GgufFile

_SOFTMAX, _SIGMOID = 1, 2
_EXPERTS: dict[str, str | None] = {
    "expert_count": "n_routed_experts", "expert_used_count": "num_experts_per_tok",
    "expert_shared_count": "n_shared_experts", "expert_feed_forward_length":
    "moe_intermediate_size", "expert_weights_scale": "routed_scaling_factor",
    "expert_weights_norm": "norm_topk_prob", "expert_group_count": "n_group",
    "expert_group_used_count": "topk_group", "leading_dense_block_count": "first_k_dense_replace",
    "expert_gating_func": None,
}  # fmt: skip
_ONE_GROUP = {"n_group": 1, "topk_group": 1}


def _turned_keys(parts: Sequence[Tensor]) -> Tensor:
    """(heads, rank, keys) and (heads, values, rank) -> (heads * (keys + values), rank)."""
    keys, values = parts
    return torch.cat((keys.transpose(1, 2).to(values.dtype), values), dim=1).flatten(0, 1)


def _latent_heads(file: GgufFile) -> Heads:
    """With the width of what is rotated."""
    count = file.number("deepseek2.attention.head_count")
    return Heads(count, count, file.number("deepseek2.rope.dimension_count"))


def _gating(file: GgufFile, default: int) -> int:
    key = f"{file.architecture}.expert_gating_func"
    found = file.number(key, default)
    if found not in (_SOFTMAX, _SIGMOID):
        raise UnsupportedModel(
            f"{file.path}: {key} is {found}; supported: {_SOFTMAX}, softmax, and {_SIGMOID}, "
            "sigmoid"
        )
    return found


def _deepseek(file: GgufFile, config: dict[str, Any]) -> None:
    """V3 is what corrects its scores; of older files of V2 no key says that it takes a softmax."""
    name, rotated = file.architecture, file.number("deepseek2.rope.dimension_count")
    attention = f"{name}.attention"
    keys = file.number(f"{attention}.key_length_mla", file.number(f"{attention}.key_length"))
    values = file.number(f"{attention}.value_length_mla", file.number(f"{attention}.value_length"))
    file.require(f"{name}.expert_count")
    config |= {
        "num_key_value_heads": config["num_attention_heads"], "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": keys - rotated, "v_head_dim": values,
        "q_lora_rank": config.get("q_lora_rank"),
        "norm_topk_prob": config.get("norm_topk_prob", False),
    }  # fmt: skip
    has_corrections = file.has("exp_probs_b.bias")
    if _gating(file, _SIGMOID if has_corrections else _SOFTMAX) == _SIGMOID:
        config |= {
            "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"],
            "scoring_func": "sigmoid", "topk_method": "noaux_tc",
        }  # fmt: skip
    else:
        method = "group_limited_greedy" if config["n_group"] > 1 else "greedy"
        config |= {"scoring_func": "softmax", "topk_method": method}
    scaling = config.get("rope_scaling")
    if scaling is not None and scaling["rope_type"] == "yarn":
        # Both temperatures are the same in all of the family's checkpoints.
        weight = round(10 * float(file.require(f"{name}.rope.scaling.yarn_log_multiplier")), 6)
        scaling |= {"mscale": weight, "mscale_all_dim": weight}


def _glm4_moe(file: GgufFile, config: dict[str, Any]) -> None:
    if _gating(file, _SIGMOID) != _SIGMOID:
        raise UnsupportedModel(
            f"{file.path}: {file.architecture}.expert_gating_func is {_SOFTMAX}; supported: "
            f"{_SIGMOID}, sigmoid"
        )
    config.setdefault("norm_topk_prob", False)


EXPERT_ARCHITECTURES: Mapping[str, Architecture] = {
    "deepseek2": Architecture(
        "deepseek_v2", "DeepseekV2ForCausalLM", heads=_latent_heads, has_head_dim=False,
        finish=_deepseek,
        keys={
            **_EXPERTS, "attention.q_lora_rank": "q_lora_rank", "attention.kv_lora_rank":
            "kv_lora_rank", "attention.key_length_mla": None, "attention.value_length_mla": None,
            "rope.scaling.yarn_log_multiplier": None,
        },
        constants={"hidden_act": "silu", "routed_scaling_factor": 1.0, **_ONE_GROUP},
        flags={"attention_bias": "attn_output.bias"},
        places={
            "model.layers.{i}.self_attn.kv_b_proj": (
                Source(("attn_kv_b",)), Source(("attn_k_b", "attn_v_b"), _turned_keys),
            ),
        },
    ),
    "glm4moe": Architecture(
        "glm4_moe", "Glm4MoeForCausalLM", partial="partial_rotary_factor", finish=_glm4_moe,
        keys=_EXPERTS, constants={"hidden_act": "silu", "routed_scaling_factor": 1.0, **_ONE_GROUP},
        flags={"attention_bias": "attn_q.bias", "use_qk_norm": "attn_q_norm.weight"},
    ),
}  # fmt: skip
