"""MXFP4 checkpoints: experts stay as they are in the file, whatever else is asked for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tiny.checkpoint import write
from tiny.gpt_oss import GPT_OSS, from_mxfp4
from tiny.llamas import VOCAB
from tiny.paged import PagedRunner

from atoll.config import Settings
from atoll.errors import AtollError, ConfigError, WeightError
from atoll.layers.parallel import Shard
from atoll.models import gpt_oss
from atoll.models.load_options import load_options
from atoll.models.rank_shares import Storage, rank_shares
from atoll.models.registry import Checkpoint, load_decoder
from atoll.runner.lora import attach_adapters
from atoll.weights.load import LoadOptions
from atoll.weights.quantization import Quantization

HUB = Path(__file__).parents[1] / "data" / "hub_configs"
IDS = torch.randint(3, VOCAB, (31,), generator=torch.Generator().manual_seed(3)).tolist()
MXFP4 = Quantization("mxfp4", 4, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("checkpoint")
    write(GPT_OSS[0], found)
    return found


def _load(folder: Path, **options: Any) -> Any:
    return load_decoder(Checkpoint.open(folder), LoadOptions(**options))


@pytest.mark.parametrize("size", [1, 2])
def test_experts_stay_in_4_bits(folder: Path, size: int) -> None:
    """A quarter of a bit is the scale's share; no copy in another format is kept."""
    model = _load(folder, shard=Shard(size - 1, size))
    experts = [
        layer
        for block in model.blocks
        for expert in block.mlp.experts
        for layer in (expert.gate_up, expert.down)
    ]
    assert {layer.packed.scheme for layer in experts} == {"mxfp4"}
    held = sum(tensor.nbytes for layer in experts for tensor in layer.packed.tensors)
    weights = sum(layer.in_features * layer.out_features for layer in experts)
    assert held == weights * 4.25 / 8
    others = sum(parameter.numel() for parameter in model.parameters()) - weights
    storage = Storage(torch.float32, quantization=MXFP4)
    (share,) = rank_shares(gpt_oss, model.config, storage, (size,))
    assert share.weight_bytes == held + others * 4
    # Of 288 features each of two ranks has 160, the second 32 of them zeros.
    assert experts[1].in_features == (288 if size == 1 else 160)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_quantize_is_for_the_other_layers(folder: Path, scheme: str) -> None:
    model = _load(folder, scheme=scheme)
    block = model.blocks[0]
    assert block.attention.qkv.packed.scheme in ("int8", scheme)
    assert block.mlp.router.packed.scheme == "dense"
    assert block.mlp.experts[0].gate_up.packed.scheme == "mxfp4"
    exact, found = (PagedRunner(m).step({"a": IDS})["a"] for m in (_load(folder), model))
    assert not torch.equal(found, exact) and found.isfinite().all()


def test_rows_are_those_of_the_file(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    stem = "model.layers.1.mlp.experts.gate_up_proj"
    stored = from_mxfp4(tensors[f"{stem}_blocks"][3], tensors[f"{stem}_scales"][3])
    packed = _load(folder).blocks[1].mlp.experts[3].gate_up.packed
    found = packed.forward(torch.eye(64)).t() - packed.bias.unsqueeze(1)
    expected = torch.cat([stored[0::2], stored[1::2]])
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_transformers_reads_the_same(folder: Path) -> None:
    """Its own reader of the format, which expands the experts."""
    reference = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = reference(torch.tensor([IDS]), use_cache=False).logits[0]
    found = PagedRunner(_load(folder)).step({"a": IDS})["a"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": None}, "gate_up_proj_blocks is MXFP4; .* quantised with nothing"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "no tensor is a qweight"),
        ({"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": 3}},
         "modules_to_not_convert is 3"),
        ({"swiglu_limit": 5.0}, r"swiglu_limit is 5.0; supported: 7.0"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ],
)  # fmt: skip
def test_contradictions_are_named(
    changes: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, **changes}))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(AtollError, match=message):
        _load(tmp_path)


def test_an_mxfp4_config_of_plain_weights(tmp_path: Path) -> None:
    write(GPT_OSS[1], tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["quantization_config"] = {"quant_method": "mxfp4"}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(WeightError, match="says mxfp4, and no tensor is a blocks"):
        _load(tmp_path)


def test_some_layers_left_out(folder: Path, tmp_path: Path) -> None:
    """Their tensors say so, whichever names ``modules_to_not_convert`` has for them."""
    tensors = load_file(folder / "model.safetensors")
    stem = "model.layers.0.mlp.experts.down_proj"
    packed = [tensors.pop(f"{stem}_{kind}") for kind in ("blocks", "scales")]
    tensors[stem] = from_mxfp4(*packed).transpose(1, 2).contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    logits = [PagedRunner(_load(place)).step({"a": IDS})["a"] for place in (folder, tmp_path)]
    torch.testing.assert_close(*logits, atol=2e-5, rtol=1e-5)


def test_scales_that_no_kernel_takes(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.experts.down_proj_scales"
    tensors[name][2, 3, 4] = 255
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(WeightError, match=f"{name}.*255"):
        _load(tmp_path)


@pytest.mark.parametrize(
    ("layer", "keys", "message"),
    [
        ("experts.base_layer", {}, r"cannot be adapted: \['model.layers.0.mlp.experts.base_layer'"),
        ("experts.gate_up_proj", {}, "cannot be adapted: .*experts.gate_up_proj'"),
        ("experts", {"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters is set"),
    ],
)
def test_adapters_of_experts_are_refused(
    layer: str, keys: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    stem = f"base_model.model.model.layers.0.mlp.{layer}"
    pair = {f"{stem}.lora_A.weight": torch.zeros(4, 64), f"{stem}.lora_B.weight": torch.zeros(8, 4)}
    save_file(pair, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, **keys}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AtollError, match=message):
        attach_adapters(_load(folder), gpt_oss.WEIGHTS, folder, {"x": tmp_path}, torch.float32)


def test_float16_would_overflow(folder: Path) -> None:
    with pytest.raises(ConfigError, match="float16 would overflow; use bfloat16"):
        _load(folder, dtype=torch.float16)


def test_the_setting_that_names_the_format(folder: Path, tmp_path: Path) -> None:
    options = load_options(Settings(quantize="mxfp4"), {})
    assert options.scheme == "dense" and load_decoder(Checkpoint.open(folder), options)
    write(GPT_OSS[1], tmp_path)
    with pytest.raises(ConfigError, match="'mxfp4'.*not quantised"):
        load_decoder(Checkpoint.open(tmp_path), options)


@pytest.mark.parametrize(("name", "gibibytes"), [("20b", 12.8), ("120b", 60.8)])
def test_memory_of_the_published_models(name: str, gibibytes: float) -> None:
    """The model card's sizes; over 4 and 8 GPUs, 90 blocks of 32 features become 92 and 96."""
    raw, sizes = json.loads((HUB / f"openai__gpt-oss-{name}.json").read_text()), (1, 2, 4, 8)
    assert Quantization.read(HUB, raw) == MXFP4
    config = gpt_oss.Config.from_hf(raw)
    assert config.windows[:4] == (128, None, 128, None)
    storage = Storage(torch.bfloat16, quantization=MXFP4)
    shares = rank_shares(gpt_oss, config, storage, sizes)
    found = [share.weight_bytes / 2**30 for share in shares]
    assert found[0] == pytest.approx(gibibytes, abs=0.05)
    assert found == pytest.approx([found[0] / size for size in sizes], rel=0.08)
