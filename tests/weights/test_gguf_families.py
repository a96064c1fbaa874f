"""GGUF files of every family against transformers with the numbers that the files hold."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file
from tiny import gguf_converted as to
from tiny.checkpoint import write
from tiny.gguf_architectures import CONVERTED, CONVERTED_VARIANTS
from tiny.gguf_converted import write_converted
from tiny.gguf_files import COMMON, FAMILIES, VARIANTS, Written
from tiny.gguf_writing import add_keys, add_vocabulary, finish, write_gguf
from tiny.gpt_oss import GPT_OSS
from tiny.llamas import VOCAB
from tiny.paged import PagedRunner
from tiny.t5 import write_t5
from transformers import AutoModelForCausalLM

from atoll.models.registry import Checkpoint, load_decoder
from atoll.weights.gguf.convert import prepare
from atoll.weights.load import LoadOptions

MIXED = ("attn_v", "ffn_down")


def _kind(name: str) -> str:
    """As llama.cpp's Q4_K_M: some matrices have more bits, one of a fused projection among them."""
    return "Q8_0" if name.endswith(MIXED) or "token_embd" in name else "Q4_1"


def _add_experts(writer: gguf.GGUFWriter, tensors: dict[str, torch.Tensor], kind: str) -> None:
    """gpt-oss' as llama.cpp has them: gate and up apart, codes i and i + 16 in a byte."""
    for layer in range(2):
        start = f"model.layers.{layer}.mlp.experts."
        for name, parts in (("gate_up", ("gate", "up")), ("down", ("down",))):
            rows = [slice(i, None, len(parts)) for i in range(len(parts))]
            bias = tensors.pop(f"{start}{name}_proj_bias")
            blocks = tensors.pop(f"{start}{name}_proj_blocks")
            scales = tensors.pop(f"{start}{name}_proj_scales")
            for part, own in zip(parts, rows, strict=True):
                full = f"blk.{layer}.ffn_{part}_exps"
                writer.add_tensor(f"{full}.bias", bias[:, own].contiguous().numpy())
                codes = torch.stack([blocks[:, own] % 16, blocks[:, own] // 16], -1).flatten(-2)
                packed = codes[..., :16] + 16 * codes[..., 16:]
                data = torch.cat([scales[:, own].unsqueeze(-1), packed], -1).flatten(-2).numpy()
                chosen = gguf.GGMLQuantizationType[kind]
                if kind != "MXFP4":
                    data = dequantize(data, gguf.GGMLQuantizationType.MXFP4)
                    data = quantize(data.astype(np.float32), chosen)
                writer.add_tensor(f"{full}.weight", data, raw_dtype=chosen)


@pytest.mark.parametrize("kind", ["MXFP4", "F32"])
@torch.inference_mode()
def test_gpt_oss(kind: str, tmp_path: Path) -> None:
    """Experts as they are published, or in another type."""
    reference = write(GPT_OSS[0], tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    tensors = load_file(tmp_path / "hub" / "model.safetensors")
    path, folder = tmp_path / "x.gguf", tmp_path / "folder"
    writer = gguf.GGUFWriter(path, "gpt-oss")
    keys = {
        **COMMON, "attention.sliding_window": "sliding_window", "expert_count": "num_local_experts",
        "expert_used_count": "num_experts_per_tok",
        "expert_feed_forward_length": "intermediate_size",
        "rope.scaling.type": lambda c: "yarn",
        "rope.scaling.factor": lambda c: c["rope_scaling"]["factor"],
        "rope.scaling.original_context_length": lambda c: 16,
    }  # fmt: skip
    add_keys(writer, Written("gpt-oss", keys), config)
    add_vocabulary(writer)
    _add_experts(writer, tensors, kind)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT_OSS, 2)
    for name, tensor in tensors.items():
        stem, _, suffix = name.rpartition(".")
        found = names.get_name(name) or names.get_name(stem)
        ending = suffix if suffix in ("weight", "bias") else "weight"
        writer.add_tensor(f"{found}.{ending}", tensor.float().numpy())
    finish(writer)
    folder.mkdir()
    prepare(path, folder)
    ids = torch.randint(3, VOCAB, (21,), generator=torch.Generator().manual_seed(5)).tolist()
    found = _logits(load_decoder(Checkpoint.open(folder), LoadOptions()), ids)
    expected = reference.logits(ids)
    assert float((found - expected).abs().max()) <= 1e-4 * max(1.0, float(expected.std()))


def _logits(model: Any, ids: list[int]) -> torch.Tensor:
    return PagedRunner(model).step({"a": ids})["a"]


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_a_family_is_what_its_file_holds(name: str, tmp_path: Path) -> None:
    write(VARIANTS[name], tmp_path / "hub")
    path, same = tmp_path / "tiny.gguf", tmp_path / "same"
    write_gguf(tmp_path / "hub", path, FAMILIES[name], _kind, same)
    reference = AutoModelForCausalLM.from_pretrained(
        same, dtype=torch.float64, experts_implementation="eager"
    ).eval()
    ids = torch.randint(3, VOCAB, (21,), generator=torch.Generator().manual_seed(5)).tolist()
    with VARIANTS[name].around():
        expected = reference(torch.tensor([ids]), use_cache=False).logits[0].float()
    folder = tmp_path / "folder"
    folder.mkdir()
    prepare(path, folder)
    model: Any = load_decoder(Checkpoint.open(folder), LoadOptions())
    found = _logits(model, ids)
    assert float((found - expected).abs().max()) <= 1e-4 * max(1.0, float(expected.std()))


@pytest.mark.parametrize("name", CONVERTED)
@torch.inference_mode()
def test_a_family_whose_tensors_are_changed(name: str, tmp_path: Path) -> None:
    reference = write(CONVERTED_VARIANTS[name], tmp_path / "hub")
    path, folder = tmp_path / "tiny.gguf", tmp_path / "folder"
    write_converted(tmp_path / "hub", path, CONVERTED[name])
    folder.mkdir()
    prepare(path, folder)
    ids = torch.randint(3, VOCAB, (12,), generator=torch.Generator().manual_seed(5)).tolist()
    model: Any = load_decoder(Checkpoint.open(folder), LoadOptions())
    expected = reference.logits(ids)
    found = _logits(model, ids)
    assert float((found - expected).abs().max()) <= 1e-4 * max(1.0, float(expected.std()))


@pytest.mark.parametrize("kind", ["t5", "flan-t5"])
@torch.inference_mode()
def test_t5(kind: str, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    reference = write_t5(kind, tmp_path / "hub", relative_attention_max_distance=128)
    path, folder = tmp_path / "tiny.gguf", tmp_path / "folder"
    keys: to.Keys = {
        "context_length": "n_positions", "embedding_length": "d_model", "block_count": "num_layers",
        "feed_forward_length": "d_ff", "decoder_block_count": "num_decoder_layers",
        "attention.head_count": "num_heads", "attention.key_length": "d_kv",
        "attention.value_length": "d_kv", "attention.layer_norm_epsilon": "layer_norm_epsilon",
        "attention.layer_norm_rms_epsilon": "layer_norm_epsilon",
        "attention.relative_buckets_count": "relative_attention_num_buckets",
        "decoder_start_token_id": "decoder_start_token_id",
    }  # fmt: skip
    write_converted(tmp_path / "hub", path, to.Converted("t5", keys, to.t5))
    folder.mkdir()
    prepare(path, folder)
    ids = torch.randint(2, VOCAB, (60,), generator=torch.Generator().manual_seed(5)).tolist()
    runner = PagedRunner(load_decoder(Checkpoint.open(folder), LoadOptions()))
    runner.encode({"a": ids[:37]})
    found = runner.step({"a": ids[37:]})["a"]
    expected = reference(
        input_ids=torch.tensor([ids[:37]]), decoder_input_ids=torch.tensor([ids[37:]])
    ).logits[0]
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.std())
