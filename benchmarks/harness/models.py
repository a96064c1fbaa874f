"""The models that benchmarks run in this process: MiniLM, SmolLM2, and the sizes of a Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from atoll.config import Settings
from atoll.encoders.embedder import Embedder
from atoll.layers import Batch
from atoll.models.load_options import load_options
from atoll.models.registry import Checkpoint, load_decoder
from atoll.runner.kv_cache import allocate
from atoll.serving.triton.instance import in_temporary_thread
from atoll.text.text_encoder import TextEncoder
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve

EMBEDDER_ID = "sentence-transformers/all-MiniLM-L6-v2"
GENERATOR_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def load_embedder(folder: Path, dtype: str) -> tuple[Embedder, TextEncoder]:
    """A checkpoint's model, loaded as a server loads it, and its tokenizer."""
    settings = Settings(model_id=str(folder), dtype=dtype)
    embedder = in_temporary_thread(Embedder, folder, settings)
    return embedder, TextEncoder(Tokenizer.load(folder).core, embedder.spec.max_length)


class Generator:
    """SmolLM2 or another generator in a dtype, with a KV cache of random contents."""

    def __init__(
        self, dtype: str, num_blocks: int, block_size: int, folder: Path | None = None
    ) -> None:
        """folder: another checkpoint than SmolLM2's."""
        checkpoint = Checkpoint.open(folder or resolve(GENERATOR_ID))
        options = load_options(Settings(dtype=dtype), checkpoint.raw)
        self._model = cast(Any, load_decoder(checkpoint, options))
        specs = self._model.cache_specs()
        self.kv_cache = allocate(specs, num_blocks, block_size, options.dtype, options.device)
        for layer in self.kv_cache:
            layer.keys.normal_()
            layer.values.normal_()

    def logits(self, batch: Batch) -> Tensor:
        """(tokens, vocab) float32."""
        found: Tensor = self._model.logits(self._model(batch))
        return found


def save_random_llama(folder: Path, vocab_size: int, device: torch.device) -> None:
    """Writes a checkpoint of TinyLlama's sizes, 1.1 billion random weights in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
        num_attention_heads=32, num_key_value_heads=4, max_position_embeddings=2048,
        rms_norm_eps=1e-5,
    )  # fmt: skip
    with device:
        LlamaForCausalLM(config).bfloat16().save_pretrained(folder)


def save_random_qwen3(folder: Path) -> None:
    """Writes a checkpoint of Qwen3-0.6B's sizes, random weights in bfloat16."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128, max_position_embeddings=40960,
        rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    )  # fmt: skip
    Qwen3ForCausalLM(config).bfloat16().save_pretrained(folder)
