"""LFM2 and models with Mamba layers, in every layout that we load; see ``decoders``."""

from typing import Any

import torch
import transformers as hf

from tiny.checkpoint import Tensors, Variant
from tiny.llamas import VOCAB, rope

SIZES: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip
# What random numbers make time steps of is often less than transformers' least one.
NO_LEAST: dict[str, Any] = dict(time_step_min=1e-30)


def _lfm2(**changes: Any) -> Any:
    values = dict(
        intermediate_size=96, block_multiple_of=16,
        layer_types=["conv", "conv", "full_attention"],
    )  # fmt: skip
    return hf.Lfm2ForCausalLM(hf.Lfm2Config(**{**SIZES, **values, **changes}))


def _lfm2_moe(**changes: Any) -> Any:
    values = dict(
        intermediate_size=96, moe_intermediate_size=24, num_dense_layers=1, num_experts=6,
        num_experts_per_tok=2, layer_types=["conv", "conv", "full_attention"],
        experts_implementation="eager",
    )  # fmt: skip
    return hf.Lfm2MoeForCausalLM(hf.Lfm2MoeConfig(**{**SIZES, **values, **changes}))


def _corrections(model: Any, tensors: Tensors) -> None:
    """Large enough to change which experts are chosen, in place of zeros."""
    generator = torch.Generator().manual_seed(4)
    for name, buffer in model.named_buffers():
        if name.endswith(("expert_bias", "e_score_correction_bias")):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.3)
            layer = name.partition("layers.")[2]
            tensors[next(n for n in tensors if n.endswith(layer))] = buffer.clone()


LFM2_OLD = {
    "architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", **SIZES,
    "block_auto_adjust_ff_dim": True, "block_dim": 64, "block_ff_dim": 96,
    "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 16, "block_norm_eps": 1e-5,
    "block_use_swiglu": True, "conv_L_cache": 3, "conv_bias": False, "conv_dim": 64,
    "conv_dim_out": 64, "full_attn_idxs": [2], "norm_eps": 1e-5, "num_heads": 4,
    "rope_theta": 1000000.0, "theta": 1000000.0, "tie_embedding": True, "use_pos_enc": True,
}  # fmt: skip


def granite4(**changes: Any) -> Any:
    values = dict(
        intermediate_size=24, shared_intermediate_size=96, num_local_experts=0,
        layer_types=["mamba", "mamba", "attention"], mamba_n_heads=4, mamba_d_state=16,
        mamba_expand=1, embedding_multiplier=3.0, attention_multiplier=0.2,
        residual_multiplier=0.7, logits_scaling=2.0, position_embedding_type="nope",
        experts_implementation="eager", tie_word_embeddings=True,
    )  # fmt: skip
    config = hf.GraniteMoeHybridConfig(**{**SIZES, **values, **changes})
    return hf.GraniteMoeHybridForCausalLM(config)


def falcon_h1(**changes: Any) -> Any:
    values = dict(
        intermediate_size=96, num_hidden_layers=2, head_dim=24, mamba_d_ssm=48, mamba_n_heads=4,
        mamba_d_state=16, mamba_n_groups=1, embedding_multiplier=5.0, lm_head_multiplier=0.1,
        key_multiplier=0.4, attention_in_multiplier=0.9, attention_out_multiplier=0.8,
        ssm_in_multiplier=1.25, ssm_out_multiplier=0.6,
        ssm_multipliers=[0.7, 0.5, 0.35, 0.6, 0.8], mlp_multipliers=[0.75, 0.5],
    )  # fmt: skip
    return hf.FalconH1ForCausalLM(hf.FalconH1Config(**{**SIZES, **values, **changes}))


def _nemotron_h(**changes: Any) -> Any:
    values = dict(
        layers_block_type=["linear_attention", "mlp", "full_attention", "linear_attention"],
        intermediate_size=80, head_dim=24, mamba_num_heads=4, mamba_head_dim=16, n_groups=2,
        ssm_state_size=16, **NO_LEAST,
    )  # fmt: skip
    sizes = {k: v for k, v in SIZES.items() if k != "num_hidden_layers"}
    return hf.NemotronHForCausalLM(hf.NemotronHConfig(**{**sizes, **values, **changes}))


def _saved_again(tensors: Tensors) -> Tensors:
    return {name.replace("backbone.", "model.", 1): t for name, t in tensors.items()}


NEMOTRON_OLD = {
    "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", **SIZES,
    "attention_bias": False, "chunk_size": 128, "conv_kernel": 4, "expand": 2, "head_dim": 24,
    "hybrid_override_pattern": "M-*M", "intermediate_size": 80, "layer_norm_epsilon": 1e-5,
    "mamba_head_dim": 16, "mamba_hidden_act": "silu", "mamba_num_heads": 4,
    "mamba_proj_bias": False, "mlp_bias": False, "mlp_hidden_act": "relu2", "n_groups": 2,
    "num_hidden_layers": 4, "residual_in_fp32": False, "rms_norm_eps": 1e-5, "ssm_state_size": 16,
    "tie_word_embeddings": False, "time_step_limit": [0.0, float("inf")], "time_step_max": 0.1,
    "use_bias": False, "use_conv_bias": True, **NO_LEAST,
}  # fmt: skip


def mamba2(**changes: Any) -> Any:
    values = dict(
        vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, num_heads=8, head_dim=16,
        state_size=16, n_groups=2,
    )  # fmt: skip
    return hf.Mamba2ForCausalLM(hf.Mamba2Config(**{**values, **changes}))


MAMBA: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, state_size=8, use_mambapy=False
)


def _mamba(**changes: Any) -> Any:
    return hf.MambaForCausalLM(hf.MambaConfig(**{**MAMBA, **changes}))


def falcon_mamba(**changes: Any) -> Any:
    config = hf.FalconMambaConfig(**{**MAMBA, **changes})
    return hf.FalconMambaForCausalLM(config)


HYBRID = (
    Variant("lfm2", lambda: _lfm2(conv_bias=True, conv_L_cache=4, block_auto_adjust_ff_dim=False)),
    Variant("lfm2-old", _lfm2, config=LFM2_OLD),
    Variant("lfm2-moe", _lfm2_moe, hooks=_corrections),
    Variant("granite-4-h", lambda: granite4(
        num_local_experts=4, num_experts_per_tok=2, mamba_n_groups=2, mamba_proj_bias=True)),
    Variant("granite-4", lambda: granite4(
        layer_types=["attention"] * 3, position_embedding_type="rope",
        rope_parameters=rope("default", rope_theta=1e6))),
    Variant("falcon-h1", falcon_h1),
    Variant("falcon-h1-normed", lambda: falcon_h1(
        mamba_rms_norm=True, mamba_n_groups=2, projectors_bias=True, mamba_proj_bias=True,
        mlp_bias=True, attention_bias=True, mamba_conv_bias=False,
        rope_parameters=rope("default", rope_theta=1e11))),
    Variant("nemotron-h", _nemotron_h, config=NEMOTRON_OLD),
    Variant("nemotron-h-saved-again", lambda: _nemotron_h(use_bias=True, mlp_bias=True),
            rename=_saved_again),
    Variant("nemotron-3", lambda: _nemotron_h(
        layers_block_type=["linear_attention", "moe", "full_attention", "moe"], n_routed_experts=6,
        moe_intermediate_size=24, moe_shared_expert_intermediate_size=32, moe_latent_size=32,
        routed_scaling_factor=1.5, experts_implementation="eager"), hooks=_corrections),
    Variant("mamba2", lambda: mamba2(
        use_bias=True, use_conv_bias=False, time_step_limit=(0.3, 0.9))),
    Variant("mamba", _mamba),
    Variant("falcon-mamba", lambda: falcon_mamba(
        use_bias=True, time_step_rank=6, mixer_rms_eps=1.0)),
)  # fmt: skip
