"""What ranks hold, by the config alone: against published sizes, and against models that load."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny.bart import CONFIGS as BARTS
from tiny.bart import write_bart
from tiny.checkpoint import write
from tiny.decoders import DECODERS as VARIANTS
from tiny.t5 import CONFIGS, write_t5
from tiny.whisper import write_whisper

from atoll.cli.shard_table import MODELS, SIZES, shares
from atoll.layers.parallel import Shard
from atoll.models.families import DECODERS
from atoll.models.rank_shares import RankShare, Storage, rank_shares
from atoll.models.registry import Checkpoint, architecture, load_decoder, shard_sizes
from atoll.runner.kv_cache import bytes_per_token
from atoll.runner.states import bytes_per_sequence
from atoll.weights.load import LoadOptions
from atoll.weights.quantization import Quantization

CONFIGS_OF_THE_HUB = Path(__file__).parents[1] / "data" / "hub_configs"
# The table's shapes are those of these files.
SAME = {
    "BLOOM-176B": "bigscience__bloom", "Llama-2-70B": "meta-llama__Llama-2-70b-hf",
    "Mixtral-8x7B": "mistralai__Mixtral-8x7B-Instruct-v0.1", "Falcon-40B": "tiiuae__falcon-40b",
    "Galactica-30B": "facebook__galactica-30b", "GPT-NeoX-20B": "EleutherAI__gpt-neox-20b",
    "StarCoder": "bigcode__starcoder", "Falcon-7B": "tiiuae__falcon-7b",
}  # fmt: skip
LLAMA_70B = "meta-llama__Llama-2-70b-hf"


def _shares(raw: dict[str, Any], storage: Storage, *sizes: int) -> list[RankShare]:
    module = architecture(raw, DECODERS)
    return rank_shares(module, module.Config.from_hf(raw), storage, sizes)


def _hub(name: str) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads((CONFIGS_OF_THE_HUB / f"{name}.json").read_text())
    return raw


@pytest.mark.parametrize("name", sorted(SAME))
def test_the_table_has_the_published_shapes(name: str) -> None:
    assert list(shares(name).values()) == _shares(_hub(SAME[name]), Storage(), *SIZES)


@pytest.mark.parametrize(
    ("name", "size", "gigabytes", "kilobytes"),
    [
        ("BLOOM-176B", 1, 352, 4014), ("BLOOM-176B", 16, 22, 251), ("Falcon-180B", 8, 45, 20),
        ("Galactica-120B", 8, 30, 492), ("OPT-66B", 8, 16, 295), ("Llama-2-70B", 8, 17, 41),
        # Of 16 ranks two have the same of eight key-value heads.
        ("Llama-2-70B", 16, 9, 41), ("StarCoder", 8, 4, 20),
    ],
)  # fmt: skip
def test_shares_of_large_models(name: str, size: int, gigabytes: int, kilobytes: int) -> None:
    found = shares(name)[size]
    assert round(found.weight_bytes / 1e9) == gigabytes
    assert round(found.cache_bytes_per_token / 1e3) == kilobytes


def test_sizes_that_do_not_divide_are_left_out() -> None:
    sizes = {name: list(shares(name)) for name in MODELS}
    # With a head of zeros behind its 71.
    assert sizes["Falcon-7B"] == sizes["Falcon-180B"] == [1, 2, 4, 8]
    # With 8 behind its 72; Galactica-30B would need 8 behind its 56.
    assert sizes["OPT-66B"] == sizes["BLOOM-176B"] == [1, 2, 4, 8, 16]
    assert sizes["Galactica-30B"] == [1, 2, 4, 8]


def test_every_kind_of_layer_decides() -> None:
    """Only the first was asked, which has no experts here."""
    raw = {**_hub("Qwen__Qwen1.5-MoE-A2.7B"), "mlp_only_layers": [0]}
    for intermediate_size, sizes in ((1408, [1, 2, 4, 8, 16]), (1404, [1, 2, 4])):
        raw["moe_intermediate_size"] = intermediate_size
        module = architecture(raw, DECODERS)
        assert shard_sizes(module, module.Config.from_hf(raw)) == sizes
        found = _shares(raw, Storage(), *range(1, 17))
        assert [share.num_shard for share in found] == sizes


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    "name",
    [
        "llama", "llama-tied", "mixtral", "qwen2-moe", "starcoder", "opt-350m", "qwen3.5",
        "gemma4-26b",
    ],
)  # fmt: skip
def test_loaded_models_hold_it(name: str, size: int, tmp_path: Path) -> None:
    write(next(variant for variant in VARIANTS if variant.name == name), tmp_path)
    _assert_held(tmp_path, size)


@pytest.mark.parametrize("kind", [*sorted(CONFIGS), *BARTS, "whisper"])
def test_encoder_decoders_hold_it(kind: str, tmp_path: Path) -> None:
    if kind == "whisper":
        write_whisper(kind, tmp_path)
    else:
        write_bart(kind, tmp_path) if kind in BARTS else write_t5(kind, tmp_path)
    _assert_held(tmp_path, 2)


def _assert_held(folder: Path, size: int) -> None:
    checkpoint = Checkpoint.open(folder)
    (expected,) = _shares(dict(checkpoint.raw), Storage(torch.float32), size)
    model: Any = load_decoder(checkpoint, LoadOptions(shard=Shard(size=size)))
    held = sum(parameter.numel() * 4 for parameter in model.parameters())
    if model.config.tie_word_embeddings:
        held -= model.lm_head.weight.numel() * 4
    cache = bytes_per_token(model.cache_specs(), torch.float32)
    state = bytes_per_sequence(model.state_specs(), torch.float32)
    assert expected == RankShare(size, held, cache, state)


def test_quantised_weights() -> None:
    raw = _hub(LLAMA_70B)
    (dense,) = _shares(raw, Storage(), 8)
    awq = Quantization("awq", 4, 128)
    in_order = Quantization("gptq", 4, 128, act_order=False)
    scattered = Quantization("gptq", 4, 128, act_order=True)
    found = {
        name: _shares(raw, storage, 8)[0].weight_bytes / dense.weight_bytes
        for name, storage in {
            "int8": Storage(scheme="int8"), "int4": Storage(scheme="int4"),
            "awq": Storage(quantization=awq), "gptq": Storage(quantization=in_order),
            "act-order": Storage(quantization=scattered),
        }.items()
    }  # fmt: skip
    assert found["int8"] == pytest.approx(0.5, abs=0.01)
    assert found["int4"] == pytest.approx(5 / 16, abs=0.01)
    assert found["awq"] == found["gptq"] == pytest.approx(4.25 / 16, abs=0.01)
    # Out and down, a third of the weights, are expanded: their groups cannot be told apart.
    assert 0.5 < found["act-order"] < 0.56
