"""A served Llama or Qwen3 checkpoint as a GGUF file, so that llama.cpp runs the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.torch import load_file

_KINDS = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3}


def quantized(folder: Path, cache: Path, kind: str) -> Path:
    """The checkpoint as a GGUF file of llama.cpp's type ``kind``, made once."""
    import llama_cpp

    path = cache / f"{folder.name}-{kind}.gguf"
    if path.exists():
        return path
    source = cache / f"{folder.name}-F32.gguf"
    if not source.exists():
        _write(folder, source)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    unfinished = path.with_suffix(".part")
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(unfinished).encode(), parameters
    )
    if status:
        raise RuntimeError(f"llama.cpp could not quantise {source.name} to {kind}: {status}")
    unfinished.rename(path)
    return path


def _write(folder: Path, path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    kind = _KINDS[config["model_type"]]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[kind])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    rope = config.get("rope_parameters") or config
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    _add_tokenizer(writer, folder, config["vocab_size"])
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            array = tensor.float().numpy()
            if kind is gguf.MODEL_ARCH.LLAMA and ("q_proj" in name or "k_proj" in name):
                array = _interleaved(array, kv_heads if "k_proj" in name else heads)
            writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, folder: Path, vocab_size: int) -> None:
    """Prompts are token ids, so llama.cpp only needs a vocabulary of the right size."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    words = {index: word for word, index in model["vocab"].items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([words.get(i, f"<{i}>") for i in range(vocab_size)])
    writer.add_token_types([1] * vocab_size)
    pairs = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    writer.add_token_merges(pairs)


def _interleaved(weight: Any, num_heads: int) -> Any:
    """llama.cpp rotates a Llama's neighbouring pairs; Hugging Face's files have halves of heads."""
    rows, columns = weight.shape
    halves = weight.reshape(num_heads, 2, rows // num_heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)
