"""Qwen2 and Qwen3 in every layout that our loader accepts; see ``decoders``."""

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

QWEN = (
    Variant("qwen2", lambda: _qwen2(**WINDOW)),
    Variant("qwen2-old", lambda: _qwen2(**TIED), config=QWEN2_OLD),
    Variant("qwen3", lambda: _qwen3(**WINDOW, layer_types=["sliding_attention", "full_attention"])),
    Variant("qwen3-old", lambda: _qwen3(**TIED), config=QWEN3_OLD, rename=without("model.")),
    Variant("qwen3-biases", lambda: _qwen3(attention_bias=True, num_key_value_heads=1)),
)
