"""Gemma 4: two sizes of heads and two rotations, whose keys and tensors only this family has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from atoll.errors import UnsupportedModel
from atoll.weights.gguf.architecture import Architecture, Heads, Source
from atoll.weights.gguf.file import GgufFile
from atoll.weights.gguf.rope import FREQUENCIES

_ATTENTION = "gemma4.attention"
# What divides the frequencies of features that are not rotated.
_NEVER = 1e29


def _kinds(file: GgufFile) -> list[bool]:
    """Whether a layer has a window."""
    found = file.of_layers("attention.sliding_window_pattern", file.num_layers)
    return [bool(is_windowed) for is_windowed in found]


def _heads(file: GgufFile) -> Heads:
    """Of layers with a window."""
    return Heads(
        file.number(f"{_ATTENTION}.head_count"),
        _kv_heads(file, True) or _kv_heads(file, False),
        file.number(f"{_ATTENTION}.key_length_swa"),
    )


def _kv_heads(file: GgufFile, is_windowed: bool) -> int:
    """Of one kind of layers; 0 where there is none."""
    counts = file.of_layers("attention.head_count_kv", file.num_layers)
    found = {n for n, kind in zip(counts, _kinds(file), strict=True) if kind == is_windowed}
    if len(found) > 1:
        raise UnsupportedModel(
            f"{file.path}: {_ATTENTION}.head_count_kv is {counts[:8]}; supported: one number for "
            "layers with a window, and one for the others"
        )
    return int(next(iter(found), 0))


def _gemma4(file: GgufFile, config: dict[str, Any]) -> None:
    for kind in ("", "_swa"):
        keys, values = (file.number(f"{_ATTENTION}.{of}_length{kind}") for of in ("key", "value"))
        if keys != values:
            raise UnsupportedModel(
                f"{file.path}: {_ATTENTION}.value_length{kind} is {values}, and keys have {keys} "
                "features"
            )
    kinds, sizes = _kinds(file), file.of_layers("feed_forward_length", file.num_layers)
    whole = [layer for layer, is_windowed in enumerate(kinds) if not is_windowed]
    config |= {
        "layer_types": ["sliding_attention" if kind else "full_attention" for kind in kinds],
        "global_head_dim": file.number(f"{_ATTENTION}.key_length"),
        "num_global_key_value_heads": _kv_heads(file, False) or None,
        "attention_k_eq_v": any(f"blk.{i}.attn_v.weight" not in file.tensors for i in whole),
        "intermediate_size": min(sizes), "use_double_wide_mlp": max(sizes) > min(sizes),
        "enable_moe_block": bool(config.get("num_experts")), "rope_parameters": _ropes(file),
    }  # fmt: skip
    if not config["enable_moe_block"]:
        config |= {"num_experts": None, "top_k_experts": None, "moe_intermediate_size": None}
    if config.get("hidden_size_per_layer_input"):
        table = file.require_tensor("per_layer_token_embd.weight")
        config["vocab_size_per_layer_input"] = table.shape[0]


def _ropes(file: GgufFile) -> dict[str, Any]:
    """Layers that see the whole text rotate the features whose frequencies are not divided."""
    file.require_tensor(FREQUENCIES)
    divisors = file.values(FREQUENCIES)
    count = int((divisors == 1).sum())
    if not np.all(divisors[:count] == 1) or not np.all(divisors[count:] > _NEVER):
        raise UnsupportedModel(
            f"{file.path}: tensor {FREQUENCIES!r} holds other divisors than 1 and 1e30"
        )
    return {
        "full_attention": {
            "rope_type": "proportional", "partial_rotary_factor": count / len(divisors),
            "rope_theta": float(file.require("gemma4.rope.freq_base")),
        },
        "sliding_attention": {
            "rope_type": "default", "rope_theta": float(file.require("gemma4.rope.freq_base_swa")),
        },
    }  # fmt: skip


GEMMA4_ARCHITECTURES: Mapping[str, Architecture] = {
    "gemma4": Architecture(
        "gemma4_text", "Gemma4ForCausalLM", table="gemma4", heads=_heads, has_rope=False,
        finish=_gemma4,
        keys={
            "feed_forward_length": None, "attention.key_length_swa": None,
            "attention.value_length_swa": None, "attention.sliding_window_pattern": None,
            "attention.shared_kv_layers": "num_kv_shared_layers",
            "embedding_length_per_layer_input": "hidden_size_per_layer_input",
            "final_logit_softcapping": "final_logit_softcapping", "rope.freq_base_swa": None,
            "rope.dimension_count_swa": None, "expert_count": "num_experts",
            "expert_used_count": "top_k_experts",
            "expert_feed_forward_length": "moe_intermediate_size",
        },
        constants={"hidden_activation": "gelu_pytorch_tanh"},
        places={
            "model.layers.{i}.router.scale": (Source(("ffn_gate_inp.scale",)),),
            "model.layers.{i}.router.per_expert_scale": (Source(("ffn_down_exps.scale",)),),
        },
    ),
}  # fmt: skip
