"""Cohere 1 and 2, OLMo 3 and GLM-4, in every layout that our loader accepts; see ``decoders``."""

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
    values = dict(num_hidden_layers=4, sliding_window=7, sliding_window_pattern=2)
    values = {**_SIZES, **values, **changes}
    return hf.Cohere2ForCausalLM(hf.Cohere2Config(**values))


COHERE2_OLD = {
    **_SIZES, "architectures": ["Cohere2ForCausalLM"], "model_type": "cohere2",
    "num_hidden_layers": 4, "hidden_act": "silu", "layer_norm_eps": 1e-5, "logit_scale": 0.0625,
    "rope_theta": 50000, "rope_scaling": None, "sliding_window": 7, "sliding_window_pattern": 2,
    "position_embedding_type": "rope_gptj", "use_qk_norm": False, "rotary_pct": 1.0,
    "order_of_interleaved_layers": "local_attn_first", "cache_implementation": "hybrid",
}  # fmt: skip

COHERE = (
    Variant("cohere", _cohere),
    Variant("cohere-qk-norms", lambda: _cohere(use_qk_norm=True, attention_bias=True)),
    Variant("cohere2", _cohere2),
    Variant("cohere2-old", lambda: _cohere2(rope_parameters={
        "rope_type": "default", "rope_theta": 50000.0}), config=COHERE2_OLD),
)  # fmt: skip
