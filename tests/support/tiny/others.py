"""Families with a few variants each, in every layout that our loader accepts; see ``decoders``."""

from typing import Any

import transformers as hf

from tiny.checkpoint import Tensors, Variant
from tiny.gpt_oss import GPT_OSS
from tiny.llamas import VOCAB, with_buffers, without

_OLD_NAMES = dict(vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=4, n_positions=64)
_SIZES = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip
_TOKENS = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)


def _gpt2(**changes: Any) -> Any:
    return hf.GPT2LMHeadModel(hf.GPT2Config(**{**_OLD_NAMES, **changes}))


def _without_prefix(tensors: Tensors) -> Tensors:
    """With the masks that the first files have."""
    masks = with_buffers("transformer.h.{}.attn.bias", (1, 1, 64, 64))(tensors)
    named: Tensors = without("transformer.")(masks)
    return named


GPT2 = (
    Variant("gpt2", _gpt2),
    Variant("gpt2-no-prefix", _gpt2, rename=_without_prefix),
    Variant("gpt2-scales", lambda: _gpt2(
        n_inner=80, scale_attn_by_inverse_layer_idx=True, activation_function="gelu")),
)  # fmt: skip


def _gptj(**changes: Any) -> Any:
    values = {**_OLD_NAMES, "rotary_dim": 8, **changes}
    return hf.GPTJForCausalLM(hf.GPTJConfig(**values))


GPTJ = (
    Variant("gptj", _gptj, rename=with_buffers("transformer.h.{}.attn.masked_bias", ())),
    Variant("gptj-whole-heads", lambda: _gptj(rotary_dim=16, n_inner=80)),
)


def starcoder2(**changes: Any) -> Any:
    return hf.Starcoder2ForCausalLM(hf.Starcoder2Config(**{**_SIZES, **_TOKENS, **changes}))


STARCODER2 = (
    Variant("starcoder2", lambda: starcoder2(sliding_window=7)),
    Variant("starcoder2-no-bias", lambda: starcoder2(use_bias=False, tie_word_embeddings=False)),
)


def _smollm3(**changes: Any) -> Any:
    values = {**_SIZES, **_TOKENS, "num_hidden_layers": 5, **changes}
    return hf.SmolLM3ForCausalLM(hf.SmolLM3Config(**values))


SMOLLM3_OLD = {
    **_SIZES, "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3",
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 5000000.0, "rope_scaling": None,
    "num_hidden_layers": 5, "no_rope_layers": [1, 1, 1, 0, 1], "no_rope_layer_interval": 4,
    "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28,
}  # fmt: skip

SMOLLM3 = (
    Variant("smollm3", lambda: _smollm3(attention_bias=True, mlp_bias=True)),
    Variant("smollm3-old", lambda: _smollm3(rope_parameters={
        "rope_type": "default", "rope_theta": 5000000.0}), config=SMOLLM3_OLD),
)  # fmt: skip


def _granite(**changes: Any) -> Any:
    values = dict(
        embedding_multiplier=12.0, attention_multiplier=0.2, residual_multiplier=0.22,
        logits_scaling=0.5,
    )  # fmt: skip
    return hf.GraniteForCausalLM(hf.GraniteConfig(**{**_SIZES, **_TOKENS, **values, **changes}))


GRANITE = (
    Variant("granite", _granite),
    Variant("granite-tied", lambda: _granite(
        tie_word_embeddings=True, attention_bias=True, mlp_bias=True)),
)  # fmt: skip


def _olmo2(**changes: Any) -> Any:
    return hf.Olmo2ForCausalLM(hf.Olmo2Config(**{**_SIZES, **_TOKENS, **changes}))


OLMO2 = (
    Variant("olmo2", _olmo2),
    Variant("olmo2-mha", lambda: _olmo2(num_key_value_heads=4, intermediate_size=80)),
)

OTHERS = (*GPT2, *GPTJ, *STARCODER2, *SMOLLM3, *GRANITE, *OLMO2, *GPT_OSS)
