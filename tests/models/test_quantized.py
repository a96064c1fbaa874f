"""GPTQ, AWQ and FP8 checkpoints of every architecture: weights bit for bit, logits of the whole."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rounded import distance, take_over
from safetensors.torch import load_file, save_file
from tiny.checkpoint import Variant, write
from tiny.decoders import DECODERS
from tiny.llamas import VOCAB
from tiny.paged import PagedRunner
from tiny.quantize import Packing, pack_layer, quantized_checkpoints

from atoll.config import Settings
from atoll.errors import ConfigError, WeightError
from atoll.models.detect import decide
from atoll.models.load_options import load_options
from atoll.models.registry import Checkpoint, load_decoder
from atoll.weights import awq, gptq
from atoll.weights.load import LoadOptions
from atoll.weights.quantization import Quantization, scheme_for

ARCHITECTURES = [
    "llama", "llama-biases", "mixtral", "bloom", "opt", "gpt-neox", "starcoder",
    "bigcode-multi-head", "falcon-7b", "falcon-40b", "falcon-rw", "mpt", "phi", "phi-msft",
    "qwen2", "qwen3", "qwen2-moe", "qwen3-moe", "phi3-window", "gptj", "starcoder2", "smollm3",
    "granite", "olmo2",
    "mistral3", "glm4", "gemma3-saved-again", "gemma4-e2b", "gemma4-text", "qwen3.5-text",
    "deepseek-v3",
]  # fmt: skip
AT_LOAD = [
    "qwen2", "qwen3", "qwen2-moe", "qwen3-moe", "phi3-window",
    "phi4-mini-old", "gpt2", "gptj", "starcoder2", "smollm3", "granite", "olmo2", "falcon-h1",
    "gemma4-e2b", "gemma4-26b",
]  # fmt: skip
BY_NAME = {v.name: v for v in DECODERS}
IDS = torch.randint(3, VOCAB, (17,), generator=torch.Generator().manual_seed(3)).tolist()


def _logits(folder: Path) -> torch.Tensor:
    model = load_decoder(Checkpoint.open(folder), LoadOptions())
    return PagedRunner(model).step({"a": IDS})["a"]


def _assert_same(variant: Variant, packing: Packing, folder: Path, left_out: str = "") -> None:
    packed, dense = quantized_checkpoints(variant, packing, folder, left_out)
    torch.testing.assert_close(_logits(packed), _logits(dense), atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gptq_act_order(name: str, tmp_path: Path) -> None:
    """Each part of a fused projection has an act-order of its own; rows are reordered after."""
    _assert_same(BY_NAME[name], Packing(), tmp_path)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_awq(name: str, tmp_path: Path) -> None:
    _assert_same(BY_NAME[name], Packing("awq"), tmp_path)


@pytest.mark.parametrize(("scheme", "most"), [("int8", 0.05), ("int4", 0.5)])
@pytest.mark.parametrize("name", ["gemma2", "gemma3-saved-again"])
def test_at_load(name: str, scheme: str, most: float, tmp_path: Path) -> None:
    """Norms, soft caps and scaled embeddings stay as they are; errors are those of other models."""
    exact = write(BY_NAME[name], tmp_path).logits(IDS)
    model = load_decoder(Checkpoint.open(tmp_path), LoadOptions(scheme=scheme))
    assert model.blocks[0].attention.qkv.packed.scheme == scheme
    error = (PagedRunner(model).step({"a": IDS})["a"] - exact).square().mean().sqrt()
    assert 0 < error < most * exact.std()


@pytest.mark.parametrize(
    ("name", "size", "left_out"),
    [("qwen3", 32, ""), ("deepseek-v3", 16, "down_proj"), ("mistral3", -1, "lm_head")],
)
def test_fp8(name: str, size: int, left_out: str, tmp_path: Path) -> None:
    """Blocks that do not divide the matrices, as in Qwen3's and DeepSeek's files, or one scale for
    a matrix, as in Mistral's; weights are expanded to the numbers that they stand for."""
    _assert_same(BY_NAME[name], Packing("fp8", group_size=size), tmp_path, left_out)


@pytest.mark.parametrize(
    ("suffix", "change"),
    [
        ("weight_scale_inv", None),
        ("weight_scale_inv", lambda t: torch.cat([t, t[:1]])),
        ("weight_scale_inv", lambda t: t.int()),
        ("weight", lambda t: t.to(torch.float8_e5m2)),
        ("weight", lambda t: torch.cat([t, t[:1]])),
    ],
)
def test_damaged_fp8(suffix: str, change: Any, tmp_path: Path) -> None:
    packed, _ = quantized_checkpoints(BY_NAME["llama"], Packing("fp8"), tmp_path)
    tensors = load_file(packed / "model.safetensors")
    name = f"model.layers.1.self_attn.v_proj.{suffix}"
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors[name])
    save_file(tensors, packed / "model.safetensors")
    with pytest.raises(WeightError, match=re.escape(name)):
        _logits(packed)


def test_fp8_of_eight_bits_is_told_its_memory(tmp_path: Path) -> None:
    packed, _ = quantized_checkpoints(BY_NAME["llama"], Packing("fp8"), tmp_path)
    notes = decide(packed, Settings()).notes
    assert any("fp8: weights are expanded" in note for note in notes)
    assert not any("fp8" in note for note in decide(packed, Settings(quantize="int8")).notes)


# Largest errors, as shares: of a layer's weights, and of the logits, whose inputs are rounded too.
@pytest.mark.parametrize(
    ("scheme", "weights", "logits"), [("int8", 0.01, 0.1), ("int4", 0.15, 0.03)]
)
@pytest.mark.parametrize("name", AT_LOAD)
def test_at_load_as_dequantised(
    name: str, scheme: str, weights: float, logits: float, tmp_path: Path
) -> None:
    """Each layer has its own weights, rounded; the model computes with these and with no others."""
    write(BY_NAME[name], tmp_path)
    found = load_decoder(Checkpoint.open(tmp_path), LoadOptions(scheme=scheme))
    plain = load_decoder(Checkpoint.open(tmp_path), LoadOptions())
    assert found.blocks[0].attention.qkv.packed.scheme == scheme
    take_over(plain, found, scheme, weights)
    expected = PagedRunner(plain).step({"a": IDS})["a"]
    assert distance(PagedRunner(found).step({"a": IDS})["a"], expected) < logits


def test_layers_that_do_not_fit_4_bits_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their 80 inputs are no multiple of 32."""
    write(BY_NAME["falcon-11b"], tmp_path)
    model: Any = load_decoder(Checkpoint.open(tmp_path), LoadOptions(scheme="int4"))
    assert {block.mlp.down.packed.scheme for block in model.blocks} == {"int8"}
    assert "int4: 2 of 8 layers are held in 8 bits" in caplog.text


def test_a_factor_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    write(BY_NAME["qwen3"], tmp_path)
    file, name = tmp_path / "model.safetensors", "model.layers.0.mlp.down_proj.weight_scale"
    save_file(load_file(file) | {name: torch.ones(64, 1)}, file)
    with pytest.raises(WeightError, match=f"left over.*{re.escape(name)}"):
        load_decoder(Checkpoint.open(tmp_path), LoadOptions())


@torch.inference_mode()
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_widths_and_versions(bits: int, version: int, tmp_path: Path) -> None:
    _assert_same(BY_NAME["llama"], Packing(bits=bits, version=version), tmp_path)


@pytest.mark.parametrize("group_size", [-1, 32])
def test_gptq_groups_in_order(group_size: int, tmp_path: Path) -> None:
    packing = Packing(group_size=group_size, act_order=False)
    _assert_same(BY_NAME["llama"], packing, tmp_path)


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("left_out", ["v_proj", "gate_proj", "layers.0.self_attn.q_proj"])
def test_a_part_that_is_not_quantised(method: str, left_out: str, tmp_path: Path) -> None:
    """Of a fused projection all parts had to be quantised, or none: ``q_proj.weight`` was said to
    be missing where ``modules_to_not_convert`` names ``v_proj``."""
    _assert_same(BY_NAME["llama"], Packing(method), tmp_path, left_out)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", [1, 2])
def test_gptq_weights_bit_for_bit(bits: int, version: int) -> None:
    packing = Packing(bits=bits, version=version, group_size=32)
    weight = torch.randn(4192, 96, generator=torch.Generator().manual_seed(1))
    tensors, dense = pack_layer("x", weight, packing, 0)
    found = gptq.dequantize(
        tensors["x.qweight"], tensors["x.qzeros"], tensors["x.scales"],
        tensors["x.g_idx"].long(), bits, 2 - version, torch.float32,
    )  # fmt: skip
    assert torch.equal(found, dense)


def test_awq_weights_bit_for_bit() -> None:
    weight = torch.randn(4192, 96, generator=torch.Generator().manual_seed(1))
    tensors, dense = pack_layer("x", weight, Packing("awq", group_size=32), 0)
    found = awq.dequantize(
        tensors["x.qweight"], tensors["x.qzeros"], tensors["x.scales"],
        torch.arange(96) // 32, torch.float32,
    )  # fmt: skip
    assert torch.equal(found, dense)


def test_gptq_by_hand() -> None:
    """Two outputs, one group: codes 0..7, zero 3 (stored as 2), scale 0.5."""
    word = sum(code << (4 * i) for i, code in enumerate(range(8)))
    zeros = torch.tensor([[0x22222222]], dtype=torch.int32)
    found = gptq.dequantize(
        torch.tensor([[word] * 8], dtype=torch.int32), zeros, torch.full((1, 8), 0.5),
        torch.zeros(8, dtype=torch.int64), 4, 1, torch.float32,
    )  # fmt: skip
    assert found[0].tolist() == [(code - 3) * 0.5 for code in range(8)]


def test_config_beside_the_weights(tmp_path: Path) -> None:
    (tmp_path / "quantize_config.json").write_text('{"bits": 3, "group_size": 128}')
    assert Quantization.read(tmp_path, {}) == Quantization("gptq", 3, 128, 1)
    (tmp_path / "quantize_config.json").unlink()
    (tmp_path / "quant_config.json").write_text('{"w_bit": 4, "q_group_size": 64}')
    assert Quantization.read(tmp_path, {}) == Quantization("awq", 4, 64)
    (tmp_path / "quant_config.json").unlink()
    assert Quantization.read(tmp_path, {}) is None


@pytest.mark.parametrize("name", ["format", "checkpoint_format"])
@pytest.mark.parametrize("form", ["gptq", "GPTQ", "gptq_v2"])
def test_names_of_the_format(name: str, form: str, tmp_path: Path) -> None:
    """transformers 5 and GPTQModel write ``format``: under that name the second format was read as
    the first, whose zeros are one off."""
    config = {"quant_method": "gptq", "method": "gptq", "bits": 4, "group_size": 128, name: form}
    found = Quantization.read(tmp_path, {"quantization_config": config})
    assert found == Quantization("gptq", 4, 128, int(form != "gptq_v2"))
    both = {"quant_method": "awq", "format": "gemm", "version": "GEMM"}
    assert Quantization.read(tmp_path, {"quantization_config": both}) == Quantization("awq", 4, 128)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "fbgemm_fp8"}, "fbgemm_fp8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt.*e5m2"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size"),
        ({"quant_method": "fp8", "expert_dtype": "fp4"}, "expert_dtype.*fp4"),
        ({"quant_method": "gptq", "bits": 5}, "5 bits"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "marlin"),
        ({"quant_method": "gptq", "bits": 4, "is_marlin_format": True}, "marlin"),
        ({"quant_method": "awq", "bits": 4, "version": "GEMV"}, "gemv"),
        ({"quant_method": "awq", "bits": 8}, "8 bits"),
        ({"quant_method": "gptq", "bits": 4, "format": "marlin"}, "format.*marlin"),
        (
            {"quant_method": "gptq", "bits": 4, "format": "gptq_v2", "checkpoint_format": "gptq"},
            "checkpoint_format is 'gptq' and format is 'gptq_v2'",
        ),
        ({"quant_method": "awq", "bits": 4, "format": "gemv_fast"}, "format.*gemv_fast"),
        ({"quant_method": "awq", "bits": 4, "checkpoint_format": "gemv"}, "gemv"),
        ({"quant_method": "awq", "bits": 4, "backend": "llm-awq"}, "llm-awq"),
        ({"method": "int7"}, "method.*int7"),
    ],
)
def test_what_cannot_be_loaded_is_named(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        Quantization.read(tmp_path, {"quantization_config": config})


def test_quantize_setting() -> None:
    assert scheme_for("eetq") == scheme_for("bitsandbytes") == "int8"
    assert scheme_for("bitsandbytes-nf4") == "int4"
    with pytest.raises(ConfigError, match="nf2.*awq, bitsandbytes"):
        load_options(Settings(quantize="nf2"), {})
    assert load_options(Settings(quantize="bitsandbytes-nf4"), {}).scheme == "int4"
    assert load_options(Settings(quantize="gptq"), {}).scheme == "dense"


def test_quantize_gptq_of_a_plain_checkpoint_is_refused(tmp_path: Path) -> None:
    write(BY_NAME["llama"], tmp_path)
    options = load_options(Settings(quantize="gptq"), {})
    with pytest.raises(ConfigError, match="'gptq'.*not quantised"):
        load_decoder(Checkpoint.open(tmp_path), options)
