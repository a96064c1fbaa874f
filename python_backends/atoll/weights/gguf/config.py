"""config.json from metadata.

Starts from transformers' table of metadata keys. Every key of the architecture is read, or refused
by name: a key that is passed over would be another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.errors import UnsupportedModel, WeightError
from atoll.weights.gguf import rope
from atoll.weights.gguf.architecture import Architecture, Heads
from atoll.weights.gguf.file import INSTEAD, GgufFile
from atoll.weights.gguf.table import ARCHITECTURES

# Read below; the last three say how a file was made.
_READ = (
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length", "rope.dimension_count", "vocab_size", *rope.KEYS,
    "nextn_predict_layers", "pooling_type", "tensor_data_layout", "quantize.imatrix.file",
    "quantize.imatrix.dataset",
)  # fmt: skip
_REQUIRED = ("block_count", "context_length", "embedding_length")
_HEAD = "output.weight"
_EMBEDDING = "token_embd.weight"


def architecture_of(file: GgufFile) -> Architecture:
    """The row of the table for a file.

    Raises:
        UnsupportedModel: there is none; names what there is.
    """
    name = file.architecture
    if name == "llama" and file.metadata.get("llama.expert_count", 0):
        name = "llama with experts"
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(set(ARCHITECTURES) - {"llama with experts"}))
        raise UnsupportedModel(f"{file.path}: architecture {name!r}; supported: {known}{INSTEAD}")
    return ARCHITECTURES[name]


def read_heads(file: GgufFile) -> Heads:
    """The attention's heads.

    Raises:
        WeightError: a number is missing. UnsupportedModel: layers or keys and values differ.
    """
    row = architecture_of(file)
    if row.heads is not None:
        return row.heads(file)
    prefix = f"{file.architecture}.attention"
    num_heads = file.number(f"{prefix}.head_count")
    num_kv_heads = _num_kv_heads(file, row.is_hybrid, num_heads)
    hidden = file.number(f"{file.architecture}.embedding_length")
    if num_heads < 1 or num_kv_heads < 1:
        raise WeightError(
            f"{file.path}: {prefix}.head_count is {num_heads}, head_count_kv {num_kv_heads}"
        )
    rotated = file.metadata.get(f"{file.architecture}.rope.dimension_count")
    rotated = None if row.partial is not None else rotated
    width = file.number(f"{prefix}.key_length", rotated or hidden // num_heads)
    values = file.number(f"{prefix}.value_length", width)
    if values != width:
        raise UnsupportedModel(
            f"{file.path}: {prefix}.value_length is {values}, and keys have {width} features"
        )
    return Heads(num_heads, num_kv_heads, width)


def read_config(file: GgufFile) -> dict[str, Any]:
    """config.json of the checkpoint that the file was made from, as far as it is served.

    Raises:
        UnsupportedModel: another architecture, or a key that is not known; names it.
        WeightError: a key is missing, or has a value that cannot be.
    """
    row = architecture_of(file)
    keys = _keys(row)
    _check_known(file, keys)
    for key in (*_REQUIRED, *row.required):
        file.require(f"{file.architecture}.{key}")
    if f"{file.architecture}.expert_feed_forward_length" not in file.metadata:
        file.require(f"{file.architecture}.feed_forward_length")
    heads = read_heads(file)
    vocab_size, *_ = file.require_tensor(_EMBEDDING).shape
    config: dict[str, Any] = {
        "architectures": [row.hub_class],
        "model_type": row.model_type,
        "vocab_size": vocab_size,
        keys["attention.head_count"] or "num_attention_heads": heads.num_heads,
        "tie_word_embeddings": _HEAD not in file.tensors,
        "torch_dtype": "float32",
        **row.constants,
    }
    if kv_name := keys.get("attention.head_count_kv"):
        config[kv_name] = heads.num_kv_heads
    elif heads.num_kv_heads != heads.num_heads:
        raise UnsupportedModel(
            f"{file.path}: {file.architecture}.attention.head_count_kv is {heads.num_kv_heads}; "
            f"supported: {heads.num_heads}, as head_count"
        )
    if row.has_head_dim:
        config["head_dim"] = heads.head_dim
    for key, name in keys.items():
        full = f"{file.architecture}.{key}"
        if key not in _READ and name is not None and full in file.metadata:
            config[name] = file.scalar(full)
    for name, ending in row.flags.items():
        config[name] = file.has(ending)
    for name in {"num_hidden_layers", "n_layer", "n_layers"} & set(config):
        config[name] = file.num_layers
    if row.has_rope:
        config |= _rope(file, row, heads)
    config |= token_ids(file.metadata)
    if row.finish is not None:
        row.finish(file, config)
    return config


def _num_kv_heads(file: GgufFile, is_hybrid: bool, num_heads: int) -> int:
    """Of the layers that have attention."""
    key = f"{file.architecture}.attention.head_count_kv"
    found = file.metadata.get(key)
    if not is_hybrid or not isinstance(found, list):
        return file.number(key, num_heads)
    counts = sorted({count for count in found if count})
    if len(counts) != 1:
        raise UnsupportedModel(
            f"{file.path}: {key} is {found[:8]}; supported: 0 for layers without attention, and "
            "one number"
        )
    return int(counts[0])


def token_ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Ids of the special tokens that config.json names, but for those that are not set."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    table = GGUF_CONFIG_MAPPING["tokenizer"]
    found = {name: metadata.get(f"tokenizer.{key}") for key, name in table.items()}
    found.pop("unk_token_id", None)
    return {name: int(value) for name, value in found.items() if value is not None}


def _keys(row: Architecture) -> dict[str, str | None]:
    """Metadata keys without the architecture -> keys of config.json."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    return {**GGUF_CONFIG_MAPPING[row.table], **row.keys}


def _check_known(file: GgufFile, keys: Mapping[str, str | None]) -> None:
    """Raises UnsupportedModel: there is a key of the architecture that is not known."""
    prefix = f"{file.architecture}."
    found = (key.removeprefix(prefix) for key in file.metadata if key.startswith(prefix))
    unknown = sorted(key for key in found if key not in keys and key not in _READ)
    if unknown:
        key = unknown[0]
        raise UnsupportedModel(
            f"{file.path}: metadata {prefix + key!r} ({file.metadata[prefix + key]!r}) is not "
            f"supported for this architecture{INSTEAD}"
        )


def _rope(file: GgufFile, row: Architecture, heads: Heads) -> dict[str, Any]:
    key = f"{file.architecture}.rope.dimension_count"
    width = file.number(key, heads.head_dim)
    if row.partial is None:
        if width != heads.head_dim:
            raise UnsupportedModel(
                f"{file.path}: {key} is {width}; supported: {heads.head_dim}, the whole head"
            )
        return rope.read_rope(file, width)
    return {**rope.read_rope(file, width), row.partial: width / heads.head_dim}
