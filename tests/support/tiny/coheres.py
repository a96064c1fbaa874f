"""Cohere 1 and 2, OLMo 3, GLM-4 of both years, in their layouts; see ``decoders``."""

from typing import Any

import transformers as hf

from tiny.checkpoint import Variant
from tiny.llamas import VOCAB

_SIZES = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip


def _cohere(**changes: Any) -> Any:
    values = {**_SIZES, "logit_scale": 0.25, **changes}
    return hf.CohereForCausalLM(hf.CohereConfig(**values))


def _cohere2(**changes: Any) -> Any:
    values = {**_SIZES, "sliding_window": 7, "sliding_window_pattern": 2, **changes}
    return hf.Cohere2ForCausalLM(hf.Cohere2Config(**values))


COHERE2_OLD = {
    **_SIZES, "architectures": ["Cohere2ForCausalLM"], "model_type": "cohere2",
    "num_hidden_layers": 4, "hidden_act": "silu", "layer_norm_eps": 1e-5, "logit_scale": 0.0625,
    "rope_theta": 50000, "rope_scaling": None, "sliding_window": 7, "sliding_window_pattern": 2,
    "position_embedding_type": "rope_gptj", "use_qk_norm": False, "rotary_pct": 1.0,
    "order_of_interleaved_layers": "local_attn_first", "cache_implementation": "hybrid",
}  # fmt: skip

COHERE = (
    Variant("cohere-qk-norms", lambda: _cohere(use_qk_norm=True, attention_bias=True)),
    Variant("cohere2", _cohere2),
    Variant("cohere2-old", lambda: _cohere2(num_hidden_layers=4, rope_parameters={
        "rope_type": "default", "rope_theta": 50000.0}), config=COHERE2_OLD),
)  # fmt: skip


def olmo3(**changes: Any) -> Any:
    return hf.Olmo3ForCausalLM(hf.Olmo3Config(**{**_SIZES, "sliding_window": 7, **changes}))


YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
    "attention_factor": 1.2, "beta_fast": 32.0, "beta_slow": 1.0,
}  # fmt: skip
# Only layers that see everything are scaled.
OLMO3_OLD = {
    **_SIZES, "architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3",
    "num_hidden_layers": 4, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 500000,
    "rope_scaling": YARN, "sliding_window": 7, "tie_word_embeddings": False,
}  # fmt: skip

OLMO3 = (
    Variant("olmo3", lambda: olmo3(
        layer_types=["full_attention", "sliding_attention"], rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {**YARN, "rope_theta": 1000000.0}})),
    Variant("olmo3-old", lambda: olmo3(num_hidden_layers=4, rope_parameters={
        "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
        "full_attention": {**YARN, "rope_theta": 500000.0}}), config=OLMO3_OLD),
)  # fmt: skip


def _glm4(**changes: Any) -> Any:
    return hf.Glm4ForCausalLM(hf.Glm4Config(**{**_SIZES, "head_dim": 24, **changes}))


GLM4_OLD = {
    **_SIZES, "architectures": ["Glm4ForCausalLM"], "model_type": "glm4", "head_dim": 24,
    "attention_bias": True, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5, "tie_word_embeddings": False, "attention_dropout": 0.0,
}  # fmt: skip

GLM = (
    Variant("glm", lambda: hf.GlmForCausalLM(hf.GlmConfig(
        **{**_SIZES, "head_dim": 16, "num_key_value_heads": 1}))),
    Variant("glm4", _glm4),
    Variant("glm4-old", lambda: _glm4(rms_norm_eps=1e-5), config=GLM4_OLD),
)  # fmt: skip
