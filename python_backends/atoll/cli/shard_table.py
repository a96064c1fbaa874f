"""The part of docs/hardware.md on models over several GPUs, by what their layers say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.models.families import DECODERS
from atoll.models.rank_shares import RankShare, Storage, rank_shares
from atoll.models.registry import architecture

SIZES = (1, 2, 4, 8, 16)
_GB = 10**9
# Of a card's memory; the rest is for the cache, activations and CUDA itself.
_WEIGHT_SHARE = 0.8
_CARDS = {
    "16 GB (T4)": 16, "24 GB (A10, L4)": 24, "40 GB (A100)": 40, "80 GB (A100, H100)": 80,
}  # fmt: skip
# What config.json of each says of its shapes.
MODELS: Mapping[str, Mapping[str, Any]] = {
    "BLOOM-176B": {
        "model_type": "bloom", "n_embed": 14336, "n_layer": 70, "num_attention_heads": 112,
        "vocab_size": 250880,
    },
    "Falcon-180B": {
        "model_type": "falcon", "hidden_size": 14848, "num_hidden_layers": 80,
        "num_attention_heads": 232, "num_kv_heads": 8, "new_decoder_architecture": True,
        "vocab_size": 65024,
    },
    "Galactica-120B": {
        "model_type": "opt", "hidden_size": 10240, "ffn_dim": 40960, "num_hidden_layers": 96,
        "num_attention_heads": 80, "vocab_size": 50000, "max_position_embeddings": 2048,
        "activation_function": "gelu", "enable_bias": False,
        "layer_norm_elementwise_affine": False,
    },
    "Llama-2-70B": {
        "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
        "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
        "vocab_size": 32000, "max_position_embeddings": 4096,
    },
    "OPT-66B": {
        "model_type": "opt", "hidden_size": 9216, "ffn_dim": 36864, "num_hidden_layers": 64,
        "num_attention_heads": 72, "vocab_size": 50272, "max_position_embeddings": 2048,
    },
    "Mixtral-8x7B": {
        "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 32000, "max_position_embeddings": 32768,
    },
    "Falcon-40B": {
        "model_type": "falcon", "hidden_size": 8192, "num_hidden_layers": 60,
        "num_attention_heads": 128, "num_kv_heads": 8, "new_decoder_architecture": True,
        "vocab_size": 65024,
    },
    "Galactica-30B": {
        "model_type": "opt", "hidden_size": 7168, "ffn_dim": 28672, "num_hidden_layers": 48,
        "num_attention_heads": 56, "vocab_size": 50000, "max_position_embeddings": 2048,
        "activation_function": "gelu", "enable_bias": False,
        "layer_norm_elementwise_affine": False,
    },
    "GPT-NeoX-20B": {
        "model_type": "gpt_neox", "hidden_size": 6144, "intermediate_size": 24576,
        "num_hidden_layers": 44, "num_attention_heads": 64, "vocab_size": 50432,
        "max_position_embeddings": 2048,
    },
    "StarCoder": {
        "model_type": "gpt_bigcode", "n_embd": 6144, "n_inner": 24576, "n_layer": 40, "n_head": 48,
        "vocab_size": 49152, "n_positions": 8192,
    },
    "Llama-2-13B": {
        "model_type": "llama", "hidden_size": 5120, "intermediate_size": 13824,
        "num_hidden_layers": 40, "num_attention_heads": 40, "vocab_size": 32000,
        "max_position_embeddings": 4096,
    },
    "Falcon-7B": {
        "model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32,
        "num_attention_heads": 71, "multi_query": True, "vocab_size": 65024,
    },
}  # fmt: skip


def shares(name: str) -> dict[int, RankShare]:
    """Of one of ``MODELS`` in 16 bits what each rank holds, by number of ranks."""
    module = architecture(MODELS[name], DECODERS)
    config = module.Config.from_hf(MODELS[name])
    return {share.num_shard: share for share in rank_shares(module, config, Storage(), SIZES)}


def shard_section() -> list[str]:
    """Lines of the page: what each GPU holds of well-known models, and how many are needed."""
    heads = [
        "model", "weights, GB", *(f"on {size}" for size in SIZES[1:]), "cache, kB a token",
        *(f"{card}" for card in _CARDS),
    ]  # fmt: skip
    return [
        "## A model on several GPUs",
        "",
        "With `num_shard`, a generator is divided over several GPUs: each holds some heads, some "
        "of the intermediate features and some of the vocabulary, and reads only these from the "
        "files. The table is computed from the models' shapes: 16-bit weights, in all and on each "
        "of 2 to 16 GPUs; what a token takes in the KV cache, in all; and how many GPUs hold the "
        "weights with a fifth of their memory left for the cache (empty: more than 16, or as many "
        "as the model cannot be divided over). `atoll info` tells the same of any checkpoint, "
        "quantised ones included, before anything is loaded. [several_gpus.md](several_gpus.md) "
        "says how such a model is served.",
        "",
        f"| {' | '.join(heads)} |",
        "|-" * len(heads) + "|",
        *map(_row, MODELS),
        "",
        "Heads and intermediate features are divided evenly. Where heads cannot be, heads of zeros "
        "are added, one for every eight at most: Falcon-7B's 71 become 72. What does not divide "
        "even so is refused, and the error names the sizes that fit. If there are fewer key-value "
        "heads than GPUs, several GPUs hold the same one, and the cache is not divided any "
        "further: StarCoder's, with its single key-value head, is whole on every GPU. Encoders, "
        "models that transformers runs, and MPT with `qk_ln` are not divided.",
    ]


def _row(name: str) -> str:
    found = shares(name)
    each = [
        f"{found[size].weight_bytes / _GB:.1f}" if size in found else "no" for size in SIZES[1:]
    ]
    needed = [_least(found, memory) for memory in _CARDS.values()]
    whole = found[1]
    values = [
        name, f"{whole.weight_bytes / _GB:.0f}", *each,
        f"{whole.cache_bytes_per_token / 1000:.0f}", *needed,
    ]  # fmt: skip
    return f"| {' | '.join(values)} |"


def _least(found: Mapping[int, RankShare], memory_gb: int) -> str:
    """The least number of GPUs of this memory that hold the model, with room for its cache."""
    room = memory_gb * _GB * _WEIGHT_SHARE
    fitting = [size for size, share in found.items() if share.weight_bytes <= room]
    return str(min(fitting)) if fitting else ""
