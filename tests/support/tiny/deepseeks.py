"""DeepSeek V2 and V3 and their relatives, in every layout that we load; see ``decoders``."""

from typing import Any

import torch
import transformers as hf

from tiny.checkpoint import Tensors, Variant
from tiny.llamas import VOCAB, rope

SIZES: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64, q_lora_rank=24,
    kv_lora_rank=24, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16,
    moe_intermediate_size=24, n_routed_experts=4, num_experts_per_tok=2, first_k_dense_replace=1,
)  # fmt: skip
GROUPS: dict[str, Any] = dict(
    n_routed_experts=6, n_group=3, topk_group=2, num_experts_per_tok=3, routed_scaling_factor=2.5,
)  # fmt: skip


def deepseek_v2(**changes: Any) -> Any:
    return hf.DeepseekV2ForCausalLM(hf.DeepseekV2Config(
        **{**SIZES, "experts_implementation": "eager", **changes}
    ))  # fmt: skip


def _v3(**changes: Any) -> Any:
    return hf.DeepseekV3ForCausalLM(hf.DeepseekV3Config(
        **{**SIZES, "experts_implementation": "eager", **changes}
    ))  # fmt: skip


def _glm(**changes: Any) -> Any:
    values = {k: v for k, v in SIZES.items() if k != "first_k_dense_replace"}
    return hf.Glm4MoeLiteForCausalLM(hf.Glm4MoeLiteConfig(
        **{**values, "experts_implementation": "eager", **changes}
    ))  # fmt: skip


def _glm4_moe(**changes: Any) -> Any:
    return hf.Glm4MoeForCausalLM(hf.Glm4MoeConfig(**{
        **SIZES, "num_key_value_heads": 2, "experts_implementation": "eager",
        "attention_bias": True, "use_qk_norm": True, **changes,
    }))  # fmt: skip


def _yarn(weight: float) -> dict[str, Any]:
    return {
        "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1,
        "mscale": weight, "mscale_all_dim": weight,
    }  # fmt: skip


def _corrections(model: Any, tensors: Tensors) -> None:
    """Large enough to change which experts are chosen, in place of zeros.

    With this seed few tokens are so near a tie that bfloat16 takes other experts.
    """
    generator = torch.Generator().manual_seed(4)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.3)
            tensors[name] = buffer.clone()


def _further_layer(tensors: Tensors) -> Tensors:
    """With what predicts one more token: a layer's tensors, and some of its own."""
    start, own = "model.layers.1.", "model.layers.2."
    further = {own + n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
    for name in ("enorm", "hnorm", "shared_head.norm"):
        further[f"{own}{name}.weight"] = torch.ones(64)
    for name in ("embed_tokens", "shared_head.head"):
        further[f"{own}{name}.weight"] = torch.ones(VOCAB, 64)
    return {**tensors, **further, f"{own}eh_proj.weight": torch.ones(64, 128)}


V2_OLD = {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", **SIZES,
    "attention_bias": False, "auto_map": {"AutoModelForCausalLM": "modeling_deepseek.X"},
    "aux_loss_alpha": 0.001, "ep_size": 1, "hidden_act": "silu", "moe_layer_freq": 1,
    "n_group": 1, "n_shared_experts": 2, "norm_topk_prob": False, "pretraining_tp": 1,
    "q_lora_rank": None, "rms_norm_eps": 1e-5, "rope_scaling": {"type": "yarn", **_yarn(0.707)},
    "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax", "seq_aux": True,
    "tie_word_embeddings": False, "topk_group": 1, "topk_method": "greedy",
}  # fmt: skip
V3_OLD = {
    **V2_OLD, "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", **GROUPS,
    "n_shared_experts": 1, "norm_topk_prob": True, "num_nextn_predict_layers": 1,
    "q_lora_rank": 24, "rms_norm_eps": 1e-6, "rope_scaling": {"type": "yarn", **_yarn(1.0)},
    "scoring_func": "sigmoid", "topk_method": "noaux_tc",
}  # fmt: skip
ONE_GROUP: dict[str, Any] = dict(n_group=1, topk_group=1)
KIMI = {
    **V3_OLD, **ONE_GROUP, "model_type": "kimi_k2", "n_routed_experts": 4,
    "num_experts_per_tok": 2, "rope_theta": 50000.0, "rope_scaling": None,
}  # fmt: skip

DEEPSEEK = (
    Variant("deepseek-v2-lite", lambda: deepseek_v2(
        q_lora_rank=None, rms_norm_eps=1e-5, rope_parameters=rope("yarn", **_yarn(0.707))),
        config=V2_OLD),
    Variant("deepseek-v2", lambda: deepseek_v2(
        **GROUPS, topk_method="group_limited_greedy", attention_bias=True, mlp_bias=True)),
    Variant("deepseek-v3", lambda: _v3(
        **GROUPS, n_shared_experts=1, rope_parameters=rope("yarn", **_yarn(1.0))),
        config=V3_OLD, hooks=_corrections, rename=_further_layer),
    Variant("moonlight", lambda: _v3(
        **ONE_GROUP, q_lora_rank=None, n_shared_experts=2, rope_interleave=False),
        hooks=_corrections),
    Variant("kimi-k2", lambda: _v3(
        **ONE_GROUP, routed_scaling_factor=2.5,
        rope_parameters=rope("default", rope_theta=50000.0)), config=KIMI, hooks=_corrections),
    Variant("glm-4.7-flash", lambda: _glm(
        rms_norm_eps=1e-5, rope_parameters=rope("default", rope_theta=1e6)),
        hooks=_corrections, rename=_further_layer),
    Variant("glm-4.5", lambda: _glm4_moe(head_dim=24, **ONE_GROUP), hooks=_corrections,
            rename=_further_layer),
)  # fmt: skip
