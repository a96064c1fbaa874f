"""Phi-3 and its successors in every layout that our loader accepts; see ``decoders``."""

from typing import Any

import transformers as hf

from tiny.checkpoint import Tensors, Variant
from tiny.llamas import VOCAB

LIMIT = 16


def _phi3(**changes: Any) -> Any:
    values = dict(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1,
        eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return hf.Phi3ForCausalLM(hf.Phi3Config(**{**values, **changes}))


def longrope(pairs: int, name: str = "longrope") -> dict[str, Any]:
    short = [1.0 + 0.1 * i for i in range(pairs)]
    return {"type": name, "short_factor": short, "long_factor": [2.0 * f + 1 for f in short]}


def _always_long(model: Any, tensors: Tensors) -> None:
    """transformers takes the short factors for short texts, a server of long ones never does."""
    rotary = model.model.rotary_emb
    parameters = model.config.rope_parameters
    ratio = rotary.inv_freq.new_tensor(parameters["long_factor"]) / rotary.inv_freq.new_tensor(
        parameters["short_factor"]
    )
    rotary.original_inv_freq = rotary.inv_freq = rotary.inv_freq / ratio


def _mini() -> Any:
    return _phi3(
        tie_word_embeddings=True, sliding_window=262144, partial_rotary_factor=0.75,
        original_max_position_embeddings=LIMIT, rope_scaling=longrope(6),
    )  # fmt: skip


PHI3_OLD = {
    "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "vocab_size": VOCAB,
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "max_position_embeddings": 128, "original_max_position_embeddings": LIMIT,
    "rope_scaling": longrope(8, "su"), "sliding_window": 262144, "tie_word_embeddings": False,
    "auto_map": {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"},
}  # fmt: skip

PHI4_MINI_OLD = {
    **PHI3_OLD, "num_key_value_heads": 2, "partial_rotary_factor": 0.75,
    "rope_scaling": longrope(6), "tie_word_embeddings": True, "attention_bias": False,
    "embd_pdrop": 0.0, "resid_pdrop": 0.0,
}  # fmt: skip

PHI3 = (
    Variant("phi3-window", lambda: _phi3(num_key_value_heads=4, sliding_window=7)),
    Variant("phi3-128k-old", lambda: _phi3(
        num_key_value_heads=4, original_max_position_embeddings=LIMIT, rope_scaling=longrope(8),
    ), config=PHI3_OLD, hooks=_always_long),
    Variant("phi4", lambda: _phi3(rope_parameters={
        "rope_type": "default", "rope_theta": 250000.0, "partial_rotary_factor": 1.0})),
    Variant("phi4-mini", _mini, hooks=_always_long),
    Variant("phi4-mini-old", _mini, config=PHI4_MINI_OLD, hooks=_always_long),
)  # fmt: skip

# As transformers has it: short factors up to LIMIT tokens, long ones beyond.
PHI4_MINI_BY_LENGTH = Variant("phi4-mini-by-length", _mini)
