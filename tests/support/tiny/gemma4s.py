"""Gemma 4 as published, with parts for images besides, and as saved; see ``decoders``."""

from typing import Any

import torch
import transformers as hf

from tiny.checkpoint import Tensors, Variant
from tiny.llamas import VOCAB

ROPES = {
    "full_attention": {
        "rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6,
    },
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}  # fmt: skip
TEXT: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=48, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16, global_head_dim=32,
    max_position_embeddings=128, pad_token_id=0, sliding_window=7, rope_parameters=ROPES,
    final_logit_softcapping=3.0, hidden_size_per_layer_input=0,
    layer_types=["sliding_attention", "sliding_attention", "full_attention"],
)  # fmt: skip
# E2B: inputs of every layer, the last layers without keys and values of their own.
SMALL: dict[str, Any] = dict(
    num_hidden_layers=6, num_key_value_heads=1, hidden_size_per_layer_input=8,
    vocab_size_per_layer_input=VOCAB, num_kv_shared_layers=3, use_double_wide_mlp=True,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    + ["sliding_attention", "sliding_attention", "full_attention"],
)  # fmt: skip
# What the published files have all the same.
UNUSED = {
    f"model.language_model.layers.{layer}.self_attn.{name}.weight": shape
    for layer, dim in ((4, 16), (5, 32))
    for name, shape in (("k_proj", (dim, 64)), ("v_proj", (dim, 64)), ("k_norm", (dim,)))
}
LARGE: dict[str, Any] = dict(attention_k_eq_v=True, num_global_key_value_heads=1)
EXPERTS: dict[str, Any] = dict(
    **LARGE, enable_moe_block=True, num_experts=6, top_k_experts=2, moe_intermediate_size=96,
)  # fmt: skip
VISION: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, head_dim=16, position_embedding_size=16,
)  # fmt: skip


def _nested(**changes: Any) -> Any:
    config = hf.Gemma4Config(
        text_config={**TEXT, **changes}, vision_config=VISION, audio_config=None,
        attn_implementation="eager", experts_implementation="eager",
    )  # fmt: skip
    return hf.Gemma4ForConditionalGeneration(config)


def _text(**changes: Any) -> Any:
    config = hf.Gemma4TextConfig(**{**TEXT, **changes}, attn_implementation="eager")
    return hf.Gemma4ForCausalLM(config)


def _scale(model: Any, tensors: Tensors) -> None:
    """The factors at the end of layers, which are no parameters; and scores, which are not divided
    by anything, of the size that they have elsewhere. What layers add is smaller, or transformers'
    own float32 is 2e-5 off."""
    generator = torch.Generator().manual_seed(2)
    for name, buffer in model.named_buffers():
        if name.endswith("layer_scalar"):
            buffer.fill_(0.5 + torch.rand(1, generator=generator).item())
            tensors[name] = buffer.clone()
    for name, norm in model.named_parameters():
        is_query, is_last = name.endswith("q_norm.weight"), ".post_" in name
        if is_query or is_last:
            norm.data *= norm.shape[0] ** -0.5 if is_query else 0.5
            tensors[name] = norm.data.clone()


def _published(**changes: Any) -> dict[str, Any]:
    text = {"model_type": "gemma4_text", **TEXT, **changes}
    return {
        "architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4",
        "text_config": text, "vision_config": {"model_type": "gemma4_vision", **VISION},
        "audio_config": None, "image_token_id": 258880, "boi_token_id": 255999,
        "eoi_token_id": 258882, "tie_word_embeddings": True,
    }  # fmt: skip


GEMMA4 = (
    Variant("gemma4-e2b", lambda: _nested(**SMALL), hooks=_scale, config=_published(**SMALL),
            extra=UNUSED),
    Variant("gemma4-26b", lambda: _nested(**EXPERTS), hooks=_scale, config=_published(**EXPERTS)),
    # As transformers saves it, with ``per_layer_config``: as the 31B, which has no experts.
    Variant("gemma4-text", lambda: _text(**{**LARGE, "intermediate_size": 80}), hooks=_scale),
)  # fmt: skip
