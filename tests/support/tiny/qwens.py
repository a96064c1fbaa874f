"""Qwen2 and Qwen3, dense and with experts, in every layout that we load; see ``decoders``."""

from typing import Any

import transformers as hf

from tiny.checkpoint import Variant
from tiny.llamas import VOCAB, rope, without

SIZES: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip


def _qwen2(**changes: Any) -> Any:
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(**{**SIZES, **changes}))


def _qwen3(**changes: Any) -> Any:
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(**{**SIZES, "head_dim": 24, **changes}))


WINDOW: dict[str, Any] = dict(use_sliding_window=True, sliding_window=7, max_window_layers=1)
# Qwen2.5's repositories name a window that is not used.
QWEN2_OLD = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True,
    "use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1, **SIZES,
}  # fmt: skip
QWEN3_OLD = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True, "head_dim": 24,
    "attention_bias": False, "use_sliding_window": False, "sliding_window": None,
    "max_window_layers": 1, "rope_scaling": None, **SIZES,
}  # fmt: skip
TIED: dict[str, Any] = dict(
    tie_word_embeddings=True, rope_parameters=rope("default", rope_theta=1e6)
)

EXPERTS: dict[str, Any] = dict(
    num_experts=5, num_experts_per_tok=2, moe_intermediate_size=48,
    experts_implementation="eager",
)  # fmt: skip


def qwen2_moe(**changes: Any) -> Any:
    """Experts in every other layer, whose weights do not sum to one."""
    return hf.Qwen2MoeForCausalLM(hf.Qwen2MoeConfig(
        **{**SIZES, **EXPERTS, "shared_expert_intermediate_size": 32, **changes}
    ))  # fmt: skip


def _qwen3_moe(**changes: Any) -> Any:
    return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(
        **{**SIZES, **EXPERTS, "head_dim": 24, "norm_topk_prob": True, **changes}
    ))  # fmt: skip


QWEN = (
    Variant("qwen2", lambda: _qwen2(**WINDOW)),
    Variant("qwen2-old", lambda: _qwen2(**TIED), config=QWEN2_OLD),
    Variant("qwen3", lambda: _qwen3(**WINDOW, layer_types=["sliding_attention", "full_attention"])),
    Variant("qwen3-old", lambda: _qwen3(**TIED), config=QWEN3_OLD, rename=without("model.")),
    Variant("qwen3-biases", lambda: _qwen3(attention_bias=True, num_key_value_heads=1)),
    Variant("qwen2-moe", lambda: qwen2_moe(decoder_sparse_step=2)),
    Variant("qwen3-moe", _qwen3_moe),
    Variant("qwen3-moe-window", lambda: _qwen3_moe(
        use_sliding_window=True, sliding_window=7, mlp_only_layers=[0])),
)  # fmt: skip
