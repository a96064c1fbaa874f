"""Tiny T5 checkpoints: the original layout, and v1.1's (FLAN-T5)."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from tiny.checkpoint import enliven

VOCAB = 96
ORIGINAL: dict[str, Any] = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "vocab_size": VOCAB,
    "d_model": 48, "d_kv": 16, "d_ff": 80, "num_layers": 2, "num_heads": 4, "n_positions": 64,
    "feed_forward_proj": "relu", "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20, "layer_norm_epsilon": 1e-6, "pad_token_id": 0,
    "eos_token_id": 1, "decoder_start_token_id": 0, "is_encoder_decoder": True,
}  # fmt: skip
V1_1 = {
    **ORIGINAL, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    "num_decoder_layers": 3,
}  # fmt: skip
CONFIGS = {"t5": ORIGINAL, "flan-t5": V1_1}


def write_t5(kind: str, folder: Path, **changes: Any) -> Any:
    """The transformers model, and its checkpoint with duplicates as old files have them.

    changes: of the config.
    """
    config = {**CONFIGS[kind], **changes}
    model = T5ForConditionalGeneration(T5Config(**config)).eval()
    enliven(model)
    # Queries and keys are not scaled here, so lively weights would make attention one-hot.
    for module in model.modules():
        if isinstance(module, T5Attention):
            module.q.weight.data.mul_(0.25)
    tensors = {k: v.detach().clone() for k, v in model.state_dict().items()}
    if config.get("tie_word_embeddings") is False:
        head = torch.randn(VOCAB, 48, generator=torch.Generator().manual_seed(2)) * 0.3
        model.lm_head.weight = nn.Parameter(head)
        tensors["lm_head.weight"] = head.clone()
    else:
        del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return model
