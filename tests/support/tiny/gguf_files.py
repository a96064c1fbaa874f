"""How llama.cpp's converter changes each family's checkpoint: its row orders, its keys.

Written from the converter, not from our reader: what both get wrong in the same way stays unseen,
so that the keys and the changes are those of llama.cpp's source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tiny.checkpoint import Variant
from tiny.coheres import YARN, olmo3
from tiny.decoders import DECODERS
from tiny.gemmas import centre, gemma2, gemma3
from tiny.others import starcoder2
from tiny.qwens import qwen2_moe

Config = Mapping[str, Any]


def as_pairs(weight: Tensor, heads: int) -> Tensor:
    """LlamaModel.permute of llama.cpp."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _llama(name: str, weight: Tensor, c: Config) -> Tensor:
    heads = c["num_attention_heads"]
    if ".q_proj." in name:
        return as_pairs(weight, heads)
    return as_pairs(weight, c.get("num_key_value_heads") or heads) if ".k_proj." in name else weight


def _by_kind(name: str, weight: Tensor, c: Config) -> Tensor:
    """BLOOM's and GPT-NeoX's [head, 3, dim] as [3, head, dim]; Falcon's groups likewise."""
    if "query_key_value" not in name:
        return weight
    heads = c.get("n_head") or c["num_attention_heads"]
    groups = heads
    if c["model_type"] == "falcon":
        groups = c["num_kv_heads"] if c.get("new_decoder_architecture") else 1
    rows = weight.reshape(groups, heads // groups + 2, -1, *weight.shape[1:])
    q, k, v = rows[:, :-2], rows[:, -2], rows[:, -1]
    return torch.cat([part.reshape(-1, *weight.shape[1:]) for part in (q, k, v)])


def _plus_one(name: str, weight: Tensor, c: Config) -> Tensor:
    return weight + 1 if name.endswith("norm.weight") else weight


def _conv1d(name: str, weight: Tensor, c: Config) -> Tensor:
    matrices = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    return weight.t() if name.endswith(matrices) else weight


@dataclass(frozen=True)
class Written:
    """How a family is written. keys: of metadata -> of config.json, or a value of it."""

    architecture: str
    keys: Mapping[str, str | Callable[[Config], Any]]
    change: Callable[[str, Tensor, Config], Tensor] = lambda name, weight, c: weight
    extra: Callable[[Config], Mapping[str, Tensor]] = field(default=lambda c: {})


def _width(c: Config) -> int:
    return int(c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"])


def rope_value(c: Config, name: str, default: Any = None) -> Any:
    """One of the values that config.json has of the rotation, of layers that see everything."""
    inside = c.get("rope_parameters") or c.get("rope_scaling") or {}
    inside = inside.get("full_attention", inside)
    return inside.get(name, c.get(name, default))


def _share(c: Config) -> float:
    return float(rope_value(c, "partial_rotary_factor", 1.0))


COMMON: dict[str, str | Callable[[Config], Any]] = {
    "context_length": "max_position_embeddings", "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": lambda c: rope_value(c, "rope_theta"),
    "attention.key_length": "head_dim", "attention.value_length": "head_dim",
}  # fmt: skip
_EPS = {"attention.layer_norm_epsilon": "layer_norm_eps", "attention.layer_norm_rms_epsilon": "-"}
_EXPERTS = {
    "expert_count": lambda c: c.get("num_experts") or c["num_local_experts"],
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}  # fmt: skip
_WINDOWS = {
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": lambda c: [
        kind == "sliding_attention" for kind in c["layer_types"]
    ],
}
_ROTATED = {"rope.dimension_count": lambda c: int(_width(c) * _share(c))}
_OLD = {
    "embedding_length": "hidden_size", "attention.layer_norm_epsilon": "layer_norm_epsilon",
    "feed_forward_length": lambda c: 4 * c["hidden_size"],
}  # fmt: skip
_GPT2 = {
    "context_length": "n_positions", "embedding_length": "n_embd", "block_count": "n_layer",
    "feed_forward_length": lambda c: c.get("n_inner") or 4 * c["n_embd"],
    "attention.head_count": "n_head", "attention.layer_norm_epsilon": "layer_norm_epsilon",
}  # fmt: skip


def _long_factors(c: Config) -> Mapping[str, Tensor]:
    names = {"rope_factors_long": "long_factor", "rope_factors_short": "short_factor"}
    found = {name: rope_value(c, key) for name, key in names.items()}
    return {f"{name}.weight": torch.tensor(x) for name, x in found.items() if x is not None}


# Variant of ``tiny.decoders`` -> how it is written.
FAMILIES: Mapping[str, Written] = {
    "llama": Written("llama", {**COMMON, **_ROTATED, "vocab_size": "vocab_size"}, _llama),
    "llama-biases": Written("llama", COMMON, _llama),
    "llama-tied": Written("llama", COMMON, _llama),
    "llama-head-dim": Written("llama", {**COMMON, **_ROTATED}, _llama),
    "mixtral": Written("llama", {
        **COMMON, "expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok",
    }, _llama),
    "qwen2-old": Written("qwen2", COMMON),
    "qwen2-moe": Written("qwen2moe", {
        **COMMON, **_EXPERTS,
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    }),
    "qwen3-old": Written("qwen3", COMMON),
    "qwen3-moe": Written("qwen3moe", {**COMMON, **_EXPERTS}),
    "gemma": Written("gemma", COMMON, _plus_one),
    "gemma2": Written("gemma2", {
        **COMMON, "attention.sliding_window": "sliding_window",
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
    }, _plus_one),
    "gemma3": Written("gemma3", {
        **COMMON, **_WINDOWS, "final_logit_softcapping": "final_logit_softcapping",
        "rope.freq_base_swa": lambda c: c["rope_parameters"]["sliding_attention"]["rope_theta"],
    }, _plus_one),
    "phi": Written("phi2", {**COMMON, **_EPS, **_ROTATED}),
    "phi3-window": Written("phi3", {
        **COMMON, **_ROTATED, "attention.sliding_window": "sliding_window",
        "rope.scaling.original_context_length": "original_max_position_embeddings",
    }),
    "phi4": Written("phi3", {
        **COMMON, **_ROTATED, "attention.sliding_window": lambda c: c["sliding_window"] or 0,
        "rope.scaling.original_context_length":
            lambda c: rope_value(c, "original_max_position_embeddings"),
        "rope.scaling.attn_factor": lambda c: rope_value(c, "attention_factor"),
    }, extra=_long_factors),
    "starcoder": Written("starcoder", {**_GPT2, "attention.head_count_kv": lambda c: 1}),
    "starcoder2": Written("starcoder2", {**COMMON, **_EPS, "attention.layer_norm_epsilon":
                                         "norm_epsilon"}),
    "smollm3": Written("smollm3", {**COMMON, **_ROTATED}, _llama),
    "granite-tied": Written("granite", {
        **COMMON, "attention.scale": "attention_multiplier",
        "embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier",
        "logit_scale": "logits_scaling",
    }, _llama),
    "cohere-qk-norms": Written("command-r", {
        **COMMON, **_EPS, "logit_scale": "logit_scale", "rope.scaling.type": lambda c: "none",
    }),
    "cohere2": Written("cohere2", {
        **COMMON, **_EPS, **_WINDOWS, "logit_scale": "logit_scale",
        "rope.dimension_count": lambda c: _width(c),
    }),
    "olmo2": Written("olmo2", COMMON),
    "olmo3": Written("olmo2", {
        **COMMON, **_WINDOWS,
        "rope.scaling.type": lambda c: "yarn" if rope_value(c, "rope_type") == "yarn" else None,
        "rope.scaling.factor": lambda c: rope_value(c, "factor"),
        "rope.scaling.original_context_length":
            lambda c: rope_value(c, "original_max_position_embeddings"),
        "rope.scaling.yarn_beta_fast": lambda c: rope_value(c, "beta_fast"),
        "rope.scaling.yarn_beta_slow": lambda c: rope_value(c, "beta_slow"),
    }),
    "glm4": Written("glm4", {
        **COMMON, "rope.dimension_count": lambda c: int(_width(c) * _share(c)),
    }),
    "gpt2": Written("gpt2", _GPT2, _conv1d),
    "gpt-neox": Written("gptneox", {
        **COMMON, **_EPS, "use_parallel_residual": "use_parallel_residual",
        "rope.dimension_count":
            lambda c: int(_width(c) * rope_value(c, "partial_rotary_factor", 0.25)),
    }, _by_kind),
    "falcon-7b": Written("falcon", {
        **COMMON, **_OLD, "context_length": lambda c: 2048, "attention.head_count_kv": lambda c: 1,
    }, _by_kind),
    "falcon-40b": Written("falcon", {
        **COMMON, **_OLD, "attention.head_count_kv": "num_kv_heads",
        "tensor_data_layout": lambda c: "jploski",
    }, _by_kind),
    "bloom": Written("bloom", {
        **_OLD, "context_length": lambda c: 64, "block_count": "n_layer",
        "attention.head_count": "n_head", "attention.head_count_kv": "n_head",
    }, _by_kind),
    "mpt": Written("mpt", {
        "context_length": "max_seq_len", "embedding_length": "d_model", "block_count": "n_layers",
        "feed_forward_length": lambda c: 4 * c["d_model"], "attention.head_count": "n_heads",
        "attention.layer_norm_epsilon": lambda c: 1e-5,
        "attention.max_alibi_bias": lambda c: 8.0,
    }),
}  # fmt: skip

_ROPES = {
    "full_attention": {**{k: v for k, v in YARN.items() if k != "attention_factor"},
                       "rope_theta": 500000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
}  # fmt: skip
# What no file can say, llama.cpp's code does: widths that scores are divided by, say.
_AS_IN_CODE = (
    Variant("gemma2", lambda: gemma2(query_pre_attn_scalar=24, attn_logit_softcapping=2.0,
                                     final_logit_softcapping=3.0), hooks=centre),
    Variant("gemma3", lambda: gemma3(
        query_pre_attn_scalar=24, final_logit_softcapping=3.0,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    ), hooks=centre),
    Variant("qwen2-moe", qwen2_moe),
    Variant("starcoder2", lambda: starcoder2(sliding_window=None)),
    Variant("olmo3", lambda: olmo3(
        layer_types=["full_attention", "sliding_attention"], rope_parameters=_ROPES)),
)  # fmt: skip
VARIANTS = {variant.name: variant for variant in (*DECODERS, *_AS_IN_CODE)}
