"""Writes a tiny checkpoint as a GGUF file, as llama.cpp's converter would."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiny.gguf_files import Config, Written
from tiny.llamas import VOCAB

Kinds = Callable[[str], str]
F32 = gguf.GGMLQuantizationType.F32

TOKENS = ["<unk>", "<s>", "</s>", "▁", *(chr(0x21 + i) for i in range(VOCAB - 4))]


def write_gguf(
    folder: Path, path: Path, written: Written, kinds: Kinds, same: Path | None = None
) -> None:
    """Writes the checkpoint in ``folder`` as ``path``.

    Args:
        kinds: GGUF's name of a matrix -> the type it gets. same: a folder that gets the checkpoint
            with the numbers that the types keep.
    """
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    writer = gguf.GGUFWriter(path, written.architecture)
    add_keys(writer, written, config)
    add_vocabulary(writer)
    names = _names(written.architecture, config)
    stacks: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.+\.experts)\.(\d+)\.(.+)", name)
        if match is not None:
            stacks.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = tensor
            continue
        tensors[name] = _add(writer, names, written, config, name, tensor, kinds)
    for name, experts in stacks.items():
        stack = torch.stack([experts[i] for i in range(len(experts))])
        kept = _add(writer, names, written, config, name, stack, kinds)
        start, _, end = name.partition(".experts.")
        tensors |= {f"{start}.experts.{i}.{end}": kept[i].clone() for i in range(len(experts))}
    for name, tensor in written.extra(config).items():
        writer.add_tensor(name, tensor.numpy().astype(np.float32))
    finish(writer)
    if same is not None:
        same.mkdir()
        (same / "config.json").write_text((folder / "config.json").read_text())
        kept = {n: t.clone().contiguous() for n, t in tensors.items()}
        save_file(kept, same / "model.safetensors", metadata={"format": "pt"})


def add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """One token for each letter, in SentencePiece's form."""
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_types([2, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def add_words(writer: gguf.GGUFWriter, count: int) -> None:
    """BERT's: special tokens, and words that begin with a mark."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    writer.add_tokenizer_model("bert")
    words = [f"\u2581{chr(0x100 + 2 * i + 1)}" for i in range(count - len(special))]
    writer.add_token_list([*special, *words])
    writer.add_token_types([*[3] * len(special), *[1] * len(words)])
    names = ("padding", "unknown", "cls", "seperator", "mask")
    for index, name in enumerate(names):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", index)


def finish(writer: gguf.GGUFWriter) -> None:
    """Writes everything that was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _names(architecture: str, config: Config) -> gguf.TensorNameMap:
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    keys = ("num_hidden_layers", "n_layer", "n_layers")
    return gguf.get_tensor_name_map(
        kinds[architecture], next(config[key] for key in keys if key in config)
    )


def add_keys(writer: gguf.GGUFWriter, written: Written, config: Config) -> None:
    """Metadata of a family from a config.json."""
    for key, source in written.keys.items():
        value = config.get(source) if isinstance(source, str) else source(config)
        full = f"{written.architecture}.{key}"
        if value is None:
            continue
        if isinstance(value, bool):
            writer.add_bool(full, value)
        elif isinstance(value, (list, tuple)):
            writer.add_array(full, value)
        elif isinstance(value, str):
            writer.add_string(full, value)
        elif isinstance(value, int):
            writer.add_uint32(full, value)
        else:
            writer.add_float32(full, value)


def _add(
    writer: gguf.GGUFWriter, names: gguf.TensorNameMap, written: Written, config: Config,
    name: str, tensor: Tensor, kinds: Kinds,
) -> Tensor:  # fmt: skip
    """Adds a tensor, and returns it as it is kept, in the hub's order."""
    stem, _, suffix = name.rpartition(".")
    found = names.get_name(stem) or names.get_name(stem.removeprefix("transformer."))
    if found is None:
        found = names.get_name(stem.replace("block_sparse_moe", "mlp"))
    assert found is not None, name
    changed = written.change(name, tensor, config)
    is_matrix = tensor.dim() > 1 and not found.endswith(("position_embd", "ffn_gate_inp", "_norm"))
    # The blocks of no type here are of 48 weights, which some experts have.
    chosen = kinds(found) if changed.shape[-1] % 32 == 0 else "F16"
    kind = gguf.GGMLQuantizationType[chosen] if is_matrix else F32
    data = quantize(changed.contiguous().float().numpy(), kind)
    writer.add_tensor(f"{found}.{suffix}", data, raw_dtype=kind)
    if kind == F32:
        return tensor
    # What the change did to the places of numbers, undone.
    places = torch.arange(tensor.numel(), dtype=torch.float64).view(tensor.shape)
    places = written.change(name.replace("norm", "-"), places, config).flatten().long()
    kept = torch.empty(tensor.numel())
    kept[places] = torch.from_numpy(dequantize(data, kind)).flatten().float()
    return kept.view(tensor.shape)
