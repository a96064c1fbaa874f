"""T5, whose layers are an encoder's and a decoder's, with relative positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.weights.gguf.architecture import Architecture
from atoll.weights.gguf.file import GgufFile


def _t5(file: GgufFile, config: dict[str, Any]) -> None:
    """llama.cpp takes an MLP with a gate for one of GELU, and one without for one of ReLU."""
    is_gated = "enc.blk.0.ffn_gate.weight" in file.tensors
    config["feed_forward_proj"] = "gated-gelu" if is_gated else "relu"
    config["d_kv"] = file.number("t5.attention.key_length")
    # Its distances end where llama.cpp's do.
    config["relative_attention_max_distance"] = 128
    config["is_encoder_decoder"] = True


T5_ARCHITECTURES: Mapping[str, Architecture] = {
    "t5": Architecture(
        "t5", "T5ForConditionalGeneration", table="t5", has_head_dim=False, has_rope=False,
        required=("attention.key_length", "attention.relative_buckets_count"), finish=_t5,
        keys={
            "attention.head_count_kv": None, "attention.layer_norm_rms_epsilon":
            "layer_norm_epsilon", "decoder_block_count": "num_decoder_layers",
        },
    ),
}  # fmt: skip
