"""Language models in checkpoints that have parts for images besides; see ``decoders``."""

from typing import Any

import transformers as hf

from tiny.checkpoint import Tensors, Variant
from tiny.llamas import VOCAB

_TEXT = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=24, max_position_embeddings=64,
)  # fmt: skip
_VISION = dict(
    model_type="pixtral", hidden_size=32, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, head_dim=16, image_size=28, patch_size=14,
)  # fmt: skip


def _mistral3(**changes: Any) -> Any:
    text = {"model_type": "mistral", "sliding_window": None, **_TEXT, **changes}
    return hf.Mistral3ForConditionalGeneration(hf.Mistral3Config(
        text_config=text, vision_config=_VISION, tie_word_embeddings=False,
    ))  # fmt: skip


def saved_again(tensors: Tensors) -> Tensors:
    """The names that newer versions of transformers write, with those of the parts for images."""
    out = {}
    for name, tensor in tensors.items():
        inner = name.removeprefix("language_model.")
        is_text, is_head = inner != name, inner.startswith("lm_head.")
        if is_text and not is_head:
            inner = f"model.language_model.{inner.removeprefix('model.')}"
        out[inner if is_text else f"model.{name}"] = tensor
    return out


# As published: no stop tokens and no tie_word_embeddings, on either level.
MISTRAL3_OLD = {
    "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
    "image_token_index": 10, "multimodal_projector_bias": False, "projector_hidden_act": "gelu",
    "spatial_merge_size": 2, "vision_feature_layer": -1, "torch_dtype": "float32",
    "text_config": {
        **_TEXT, "model_type": "mistral", "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": 1e9, "sliding_window": None, "attention_dropout": 0.0,
    },
    "vision_config": _VISION,
}  # fmt: skip

_MINISTRAL3 = dict(
    model_type="ministral3", rms_norm_eps=1e-5, rope_parameters={
        "rope_type": "yarn", "type": "yarn", "rope_theta": 1e6, "factor": 4.0,
        "original_max_position_embeddings": 16, "beta_fast": 32.0, "beta_slow": 1.0,
        "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.4,
    },
)  # fmt: skip

NESTED = (
    Variant("mistral3", lambda: _mistral3(
        rope_parameters={"rope_type": "default", "rope_theta": 1e9}), config=MISTRAL3_OLD),
    Variant("ministral3", lambda: _mistral3(**_MINISTRAL3), rename=saved_again),
)  # fmt: skip
