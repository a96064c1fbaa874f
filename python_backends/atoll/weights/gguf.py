"""GGUF in, a checkpoint folder in the hub's format out, with every tensor in float32.

Knows the Llama architecture. llama.cpp stores rows of the query and key projections interleaved
for its own rotary layout; the hub's order is restored here. Quantised tensors are dequantised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atoll.errors import UnsupportedModel, WeightError
from atoll.weights.gguf_tokenizer import INSTEAD, build_tokenizer
from atoll.weights.progress import Progress

_NAMES: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.{i}.attn_norm": "model.layers.{i}.input_layernorm",
    "blk.{i}.attn_q": "model.layers.{i}.self_attn.q_proj",
    "blk.{i}.attn_k": "model.layers.{i}.self_attn.k_proj",
    "blk.{i}.attn_v": "model.layers.{i}.self_attn.v_proj",
    "blk.{i}.attn_output": "model.layers.{i}.self_attn.o_proj",
    "blk.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm",
    "blk.{i}.ffn_gate": "model.layers.{i}.mlp.gate_proj",
    "blk.{i}.ffn_up": "model.layers.{i}.mlp.up_proj",
    "blk.{i}.ffn_down": "model.layers.{i}.mlp.down_proj",
}


@dataclass(frozen=True)
class GGUFFile:
    """Metadata and tensors of one file, tensors still packed."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: tuple[Any, ...]

    @classmethod
    def open(cls, path: Path) -> GGUFFile:
        """Raises WeightError: not a readable GGUF file."""
        import gguf

        try:
            reader = gguf.GGUFReader(path)
            metadata = {name: field.contents() for name, field in reader.fields.items()}
        except Exception as error:
            raise WeightError(f"{path}: cannot be read as GGUF: {error}") from error
        return cls(path, metadata, tuple(reader.tensors))

    def require(self, key: str) -> Any:
        """Raises WeightError: the file lacks a key that the format demands."""
        if key not in self.metadata:
            raise WeightError(f"{self.path}: metadata {key!r} is missing")
        return self.metadata[key]


def convert(path: Path, folder: Path, progress: Progress | None = None) -> None:
    """Writes the checkpoint that a GGUF file holds into an existing empty ``folder``.

    ``progress`` is told (tensors done, tensors in all).

    Raises:
        UnsupportedModel: another architecture, or a tokenizer that is not byte-level BPE.
        WeightError: the file is damaged, or holds a tensor with no place in the architecture.
    """
    file = GGUFFile.open(path)
    architecture = file.require("general.architecture")
    if architecture != "llama":
        raise UnsupportedModel(
            f"{path}: architecture {architecture!r}; only 'llama' is converted{INSTEAD}"
        )
    config = _config(file)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", _token_ids(file))
    build_tokenizer(file.metadata, str(path)).save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(file))
    _write_tensors(file, config, folder / "model.safetensors", progress)


def _write_tensors(
    file: GGUFFile, config: Mapping[str, Any], path: Path, progress: Progress | None
) -> None:
    from safetensors.numpy import save_file

    tensors: dict[str, npt.NDArray[np.float32]] = {}
    for done, tensor in enumerate(file.tensors, start=1):
        name = _hub_name(file, tensor.name)
        values = _dequantize(tensor)
        if name.endswith(".q_proj.weight"):
            values = _restore_rotary_order(values, config["num_attention_heads"])
        elif name.endswith(".k_proj.weight"):
            values = _restore_rotary_order(values, config["num_key_value_heads"])
        tensors[name] = np.ascontiguousarray(values)
        if progress is not None:
            progress(done, len(file.tensors))
    save_file(tensors, str(path), metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it readable by the owner alone


def _dequantize(tensor: Any) -> npt.NDArray[np.float32]:
    """(out_features, in_features) or (features,), float32."""
    from gguf.quants import dequantize

    values: npt.NDArray[np.float32] = dequantize(tensor.data, tensor.tensor_type)
    # GGUF lists the fastest axis first.
    return values.reshape(tuple(int(n) for n in reversed(tensor.shape)))


def _restore_rotary_order(
    weight: npt.NDArray[np.float32], num_heads: int
) -> npt.NDArray[np.float32]:
    """weight: (heads * head_dim, in). Row 2j + h of a head is row h * head_dim/2 + j on the hub."""
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _hub_name(file: GGUFFile, name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    layer = re.match(r"blk\.(\d+)\.", stem)
    pattern = re.sub(r"^blk\.\d+\.", "blk.{i}.", stem)
    if pattern not in _NAMES or suffix != "weight":
        raise WeightError(f"{file.path}: tensor {name!r} has no place in the Llama architecture")
    return _NAMES[pattern].replace("{i}", layer.group(1) if layer else "") + ".weight"


def _config(file: GGUFFile) -> dict[str, Any]:
    heads = file.require("llama.attention.head_count")
    hidden = file.require("llama.embedding_length")
    scaling = file.metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise UnsupportedModel(f"{file.path}: rope scaling {scaling!r} is not converted{INSTEAD}")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(file.require("tokenizer.ggml.tokens")),
        "hidden_size": hidden,
        "intermediate_size": file.require("llama.feed_forward_length"),
        "num_hidden_layers": file.require("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.metadata.get("llama.attention.head_count_kv", heads),
        "head_dim": file.metadata.get("llama.rope.dimension_count", hidden // heads),
        "max_position_embeddings": file.require("llama.context_length"),
        "rms_norm_eps": file.require("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": file.metadata.get("llama.rope.freq_base", 10000.0),
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": all(t.name != "output.weight" for t in file.tensors),
        "torch_dtype": "float32",
        **_token_ids(file),
    }


def _token_ids(file: GGUFFile) -> dict[str, int]:
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    found = {
        name: file.metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()
    }
    return {name: value for name, value in found.items() if value is not None}


def _tokenizer_config(file: GGUFFile) -> dict[str, Any]:
    tokens = file.require("tokenizer.ggml.tokens")
    config: dict[str, Any] = {
        name.removesuffix("_id"): tokens[index] for name, index in _token_ids(file).items()
    }
    unknown = file.metadata.get("tokenizer.ggml.unknown_token_id")
    if unknown is not None:
        config["unk_token"] = tokens[unknown]
    if "tokenizer.chat_template" in file.metadata:
        config["chat_template"] = file.metadata["tokenizer.chat_template"]
    config["model_max_length"] = file.require("llama.context_length")
    config["clean_up_tokenization_spaces"] = False
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    return config


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
