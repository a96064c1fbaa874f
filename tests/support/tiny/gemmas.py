"""Gemma 1, 2 and 3 in every layout that our loader accepts; see ``decoders``."""

from typing import Any

import transformers as hf

from tiny.checkpoint import Tensors, Variant
from tiny.llamas import VOCAB
from tiny.nested import saved_again

SIZES: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=24, max_position_embeddings=128,
    pad_token_id=0, attn_implementation="eager",
)  # fmt: skip


def _gemma(**changes: Any) -> Any:
    return hf.GemmaForCausalLM(hf.GemmaConfig(**{**SIZES, **changes}))


def gemma2(**changes: Any) -> Any:
    values = {**SIZES, "query_pre_attn_scalar": 40, "sliding_window": 7, **changes}
    return hf.Gemma2ForCausalLM(hf.Gemma2Config(**values))


def _text3(**changes: Any) -> dict[str, Any]:
    values = {"query_pre_attn_scalar": 40, "sliding_window": 7, "sliding_window_pattern": 3}
    return {**SIZES, **values, **changes}


def gemma3(**changes: Any) -> Any:
    return hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**_text3(**changes)))


def centre(model: Any, tensors: Tensors) -> None:
    """Norms as trained ones are: their scales, less one, are about zero."""
    for name, parameter in [*model.named_parameters(), *tensors.items()]:
        if "norm" in name:
            parameter.data -= 1


LINEAR = {"rope_type": "linear", "factor": 8.0}
OLD = {key: value for key, value in SIZES.items() if key != "attn_implementation"}
# As in the hub's repositories: a legacy name of the activation.
GEMMA_OLD = {
    "architectures": ["GemmaForCausalLM"], "model_type": "gemma", "hidden_act": "gelu",
    "hidden_activation": None, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": None,
    **OLD,
}  # fmt: skip
GEMMA2_OLD = {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "rms_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 40, "sliding_window": 7, "rope_theta": 10000.0, **OLD,
}  # fmt: skip
GEMMA3_OLD = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 40, "sliding_window": 7,
    "sliding_window_pattern": 3, "rope_theta": 1000000, "rope_local_base_freq": 10000,
    "rope_scaling": LINEAR, "attn_logit_softcapping": None, "final_logit_softcapping": None, **OLD,
}  # fmt: skip

SIGLIP = dict(
    model_type="siglip_vision_model", hidden_size=32, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, image_size=28, patch_size=14, vision_use_head=False,
)  # fmt: skip
# What published files say of the text part: heads, window pattern and rotations are left out.
NESTED_TEXT: dict[str, Any] = dict(
    model_type="gemma3_text", vocab_size=VOCAB, hidden_size=64, intermediate_size=96,
    num_hidden_layers=6, rope_scaling=LINEAR, sliding_window=7,
)  # fmt: skip
NESTED_OLD = {
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
    "boi_token_index": 5, "eoi_token_index": 6, "image_token_index": 7, "mm_tokens_per_image": 1,
    "torch_dtype": "float32", "text_config": NESTED_TEXT, "vision_config": SIGLIP,
}  # fmt: skip


def _nested(**changes: Any) -> Any:
    config = hf.Gemma3Config(
        text_config={**NESTED_TEXT, **changes}, vision_config=SIGLIP, mm_tokens_per_image=1,
        image_token_id=7, boi_token_index=5, eoi_token_index=6, attn_implementation="eager",
    )  # fmt: skip
    return hf.Gemma3ForConditionalGeneration(config)


GEMMA = (
    Variant("gemma", lambda: _gemma(num_key_value_heads=1), hooks=centre,
            config={**GEMMA_OLD, "num_key_value_heads": 1}),
    Variant("gemma2", lambda: gemma2(attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
            hooks=centre),
    Variant("gemma2-old", gemma2, hooks=centre, config=GEMMA2_OLD),
    Variant("gemma3", lambda: gemma3(
        final_logit_softcapping=3.0, attention_bias=True,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    ), hooks=centre),
    Variant("gemma3-old", lambda: gemma3(rope_scaling=LINEAR), hooks=centre, config=GEMMA3_OLD),
    Variant("gemma3-nested", _nested, hooks=centre, config=NESTED_OLD),
    Variant("gemma3-saved-again", lambda: _nested(
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=24,
        sliding_window_pattern=3,
    ), hooks=centre, rename=saved_again),
)  # fmt: skip
