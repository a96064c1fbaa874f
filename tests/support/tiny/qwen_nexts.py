"""Qwen3-Next and Qwen3.5, dense and with experts, in every layout; see ``decoders``."""

from typing import Any

import transformers as hf

from tiny.checkpoint import Variant, all_in_float64
from tiny.llamas import VOCAB

# Two value heads to a key head, and widths that all differ.
SIZES: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=24, max_position_embeddings=64, linear_num_key_heads=2,
    linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=12,
    linear_conv_kernel_dim=4, hidden_act="silu", rms_norm_eps=1e-6,
    layer_types=["linear_attention", "full_attention", "linear_attention"],
)  # fmt: skip
TWO_LAYERS: dict[str, Any] = dict(
    num_hidden_layers=2, layer_types=["linear_attention", "full_attention"]
)
EXPERTS: dict[str, Any] = dict(
    num_experts=5, num_experts_per_tok=2, moe_intermediate_size=48,
    shared_expert_intermediate_size=32,
)  # fmt: skip
_VISION = dict(
    depth=1, hidden_size=32, intermediate_size=32, num_heads=2, patch_size=4, out_hidden_size=64,
    num_position_embeddings=16,
)  # fmt: skip


def _nested(kind: str, **text: Any) -> Any:
    config: Any = getattr(hf, f"{kind}Config")(
        text_config={**SIZES, **text}, vision_config=_VISION, tie_word_embeddings=False
    )
    config.text_config._experts_implementation = "eager"
    return getattr(hf, f"{kind}ForConditionalGeneration")(config)


def qwen3_5_text(**changes: Any) -> Any:
    config = hf.Qwen3_5TextConfig(**{**SIZES, "intermediate_size": 96, **changes})
    return hf.Qwen3_5ForCausalLM(config)


def qwen3_next(**changes: Any) -> Any:
    return hf.Qwen3NextForCausalLM(hf.Qwen3NextConfig(**{
        **SIZES, **EXPERTS, "intermediate_size": 96, "experts_implementation": "eager", **changes,
    }))  # fmt: skip


# Of layers that predict several tokens, which are not used.
_MTP = {"mtp.fc.weight": (64, 128), "mtp.layers.0.input_layernorm.weight": (64,)}
# As published: text has the same position along all three axes.
_MROPE = {
    "rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25,
    "mrope_section": [1, 1, 1], "mrope_interleaved": True,
}  # fmt: skip

QWEN_NEXT = tuple(
    Variant(name, build, around=all_in_float64, extra=_MTP if name == "qwen3.5-moe" else None)
    for name, build in (
        ("qwen3.5", lambda: _nested("Qwen3_5", intermediate_size=96, **TWO_LAYERS)),
        (
            "qwen3.5-text",
            lambda: qwen3_5_text(
                attention_bias=True,
                rope_parameters=_MROPE,
                num_hidden_layers=2,
                layer_types=["full_attention", "linear_attention"],
            ),
        ),
        ("qwen3.5-moe", lambda: _nested("Qwen3_5Moe", **EXPERTS, **TWO_LAYERS)),
        ("qwen3-next", lambda: qwen3_next(mlp_only_layers=[0])),
    )
)
