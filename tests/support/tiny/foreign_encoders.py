"""Tiny encoders of every family that transformers alone runs, with a tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor
from transformers.models.auto import modeling_auto as auto

from atoll.text.text_encoder import Encoded
from tiny.checkpoint import Variant
from tiny.encoders import SIZES, VOCAB
from tiny.sentence import write_trunk

_T5 = dict(
    vocab_size=VOCAB, d_model=48, d_kv=12, d_ff=80, num_layers=2, num_heads=4, n_positions=70,
)  # fmt: skip
_XLM = dict(
    vocab_size=VOCAB, emb_dim=48, n_layers=2, n_heads=4, max_position_embeddings=70,
)  # fmt: skip
_MORE: Mapping[str, dict[str, Any]] = {
    "big_bird": dict(block_size=4, num_random_blocks=1),
    "convbert": dict(embedding_size=32),
    # Relative positions alone, as the published ones: all attend to them.
    "deberta": dict(
        relative_attention=True, pos_att_type=["c2p", "p2c"], position_biased_input=False,
        max_relative_positions=-1, type_vocab_size=0,
    ),
    "embedding_gemma2_text": dict(
        num_key_value_heads=2, head_dim=12, global_head_dim=16, num_global_key_value_heads=1,
        hidden_size_per_layer_input=8, embedding_dim=20, sliding_window=6,
        sliding_window_pattern=2,
    ),
    "esm": dict(mask_token_id=4, position_embedding_type="rotary", token_dropout=True),
    "eurobert": dict(num_key_value_heads=2, bos_token_id=2, eos_token_id=3),
    "funnel": dict(block_sizes=[1, 1], num_decoder_layers=1, d_model=48, n_head=4, d_head=12,
                   d_inner=80, vocab_size=VOCAB),
    "gemma3n_text": dict(
        vocab_size_per_layer_input=VOCAB, hidden_size_per_layer_input=8, num_key_value_heads=2,
        head_dim=12, laurel_rank=4, num_kv_shared_layers=0, sliding_window=6,
        layer_types=["sliding_attention", "full_attention"], altup_num_inputs=2,
        activation_sparsity_pattern=[0.5, 0.0],
    ),
    "longformer": dict(attention_window=[8, 8]),
    "luke": dict(entity_vocab_size=10, entity_emb_size=16),
    "mobilebert": dict(embedding_size=16, intra_bottleneck_size=32, true_hidden_size=32),
    "rembert": dict(input_embedding_size=16, output_embedding_size=24, bos_token_id=2,
                    eos_token_id=3),
    "squeezebert": dict(embedding_size=48),
    "xmod": dict(languages=["en", "de"], default_language="de"),
}  # fmt: skip
_OWN = {"t5": _T5, "mt5": _T5, "umt5": _T5, "xlm": _XLM, "flaubert": _XLM, "funnel": {}}


def config_of(kind: str, **changes: Any) -> Any:
    """transformers' config of a tiny encoder of that model_type."""
    base = _OWN.get(kind, {**SIZES, "pad_token_id": 0})
    return hf.AutoConfig.for_model(kind, **{**base, **_MORE.get(kind, {}), **changes})


def write_foreign(kind: str, folder: Path, task: str = "embed", **changes: Any) -> Any:
    """A checkpoint with a tokenizer; returns the model."""
    table: Any = {
        "embed": auto.MODEL_MAPPING_NAMES,
        "sparse": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "classify": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "token_classify": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    }[task]
    name = table[kind] if isinstance(table[kind], str) else table[kind][0]
    if kind.endswith("t5"):
        name = name.replace("Model", "EncoderModel")
    model = write_trunk(Variant(kind, partial(_built, name, config_of(kind, **changes))), folder)
    return model.eval()


def _built(name: str, config: Any) -> Any:
    return getattr(hf, name)(config)


def alone(model: Any, text: Encoded) -> Tensor:
    """What transformers computes of one text: its tokens' hidden states, or its scores."""
    inputs = {"input_ids": torch.tensor(text.ids[None], dtype=torch.int64)}
    known = inspect.signature(model.forward).parameters
    if "attention_mask" in known:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "token_type_ids" in known and text.type_ids is not None:
        inputs["token_type_ids"] = torch.tensor(text.type_ids[None], dtype=torch.int64)
    with torch.inference_mode():
        found: Tensor = model(**inputs)[0][0]
    return found
