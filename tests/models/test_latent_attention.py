"""What only models with latent attention have: one row per token, a projection that is absorbed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny.checkpoint import write
from tiny.decoders import DECODERS
from tiny.families import IDS
from tiny.paged import PagedRunner

from atoll.errors import AtollError, ConfigError, WeightError
from atoll.models import deepseek
from atoll.models.registry import Checkpoint, load_decoder
from atoll.runner.kv_cache import allocate, bytes_per_token
from atoll.runner.lora import attach_adapters
from atoll.weights.load import LoadOptions

BY_NAME = {variant.name: variant for variant in DECODERS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("deepseek")
    write(BY_NAME["deepseek-v3"], made)
    return made


def _load(folder: Path, **options: Any) -> Any:
    return load_decoder(Checkpoint.open(folder), LoadOptions(**options))


def test_a_token_takes_one_row(folder: Path) -> None:
    specs = _load(folder).cache_specs()
    assert bytes_per_token(specs, torch.float16) == 2 * (24 + 8) * 2
    for layer in allocate(specs, 3, 4, torch.float16, torch.device("cpu")):
        assert layer.keys.shape == (3, 4, 1, 32) and layer.values.shape == (3, 4, 1, 24)
        assert layer.values.data_ptr() == layer.keys.data_ptr()


@pytest.mark.parametrize(("scheme", "most"), [("int8", 0.1), ("int4", 0.5)])
def test_quantised_at_load(folder: Path, scheme: str, most: float) -> None:
    """The absorbed projection keeps its dtype, and the router float32.

    Of all tokens the middle one is compared: at others, rounding leads to other experts.
    """
    model = _load(folder, scheme=scheme)
    attention, mlp = model.blocks[1].attention, model.blocks[1].mlp
    assert attention.kv_a.packed.scheme == scheme and attention.kv_b.weight.dtype == torch.float32
    exact = PagedRunner(_load(folder)).step({"a": IDS})["a"]
    errors = (PagedRunner(model).step({"a": IDS})["a"] - exact).square().mean(1).sqrt()
    assert 0 < errors.median() < most * exact.std()
    half = _load(folder, dtype=torch.bfloat16).blocks[1]
    assert half.attention.kv_b.weight.dtype == torch.bfloat16
    assert half.mlp.router.packed.tensors[0].dtype == torch.float32
    assert mlp.router.correction.dtype == torch.float32


def test_an_adapter_of_the_absorbed_projection_is_refused(folder: Path, tmp_path: Path) -> None:
    stem = "base_model.model.model.layers.0.self_attn.kv_b_proj"
    pair = {f"{stem}.lora_A.weight": torch.zeros(4, 24), f"{stem}.lora_B.weight": torch.zeros(8, 4)}
    save_file(pair, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["kv_b_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AtollError, match="cannot be adapted: .*layers.0.self_attn.kv_b_proj"):
        attach_adapters(_load(folder), deepseek.WEIGHTS, folder, {"x": tmp_path}, torch.float32)


def test_a_further_layer_must_be_for_further_tokens(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if "eh_proj" not in n},
              tmp_path / "model.safetensors")  # fmt: skip
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(WeightError, match=r"left over.*model\.layers\.2\."):
        _load(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("deepseek-v2", {"topk_method": "noaux_tc"}), ("deepseek-v2", {"norm_topk_prob": True}),
        ("deepseek-v2", {"scoring_func": "sigmoid"}), ("deepseek-v2", {"n_group": 4}),
        ("deepseek-v3", {"topk_method": "greedy"}), ("deepseek-v3", {"moe_layer_freq": 2}),
        ("deepseek-v3", {"topk_group": 4}), ("deepseek-v3", {"num_experts_per_tok": 5}),
        ("deepseek-v3", {"n_group": 6}), ("deepseek-v3", {"num_key_value_heads": 2}),
        ("deepseek-v3", {"partial_rotary_factor": 0.5}), ("deepseek-v3", {"qk_rope_head_dim": 7}),
        ("deepseek-v3", {"rope_scaling": {"type": "linear", "factor": 2.0, "mscale_all_dim": 1.0}}),
        ("deepseek-v3", {"head_dim": 24}),
        ("deepseek-v3", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("glm-4.7-flash", {"mlp_layer_types": ["dense"]}),
        ("glm-4.7-flash", {"mlp_layer_types": ["dense", "mixed"]}),
        ("glm-4.7-flash", {"mlp_layer_types": None, "first_k_dense_replace": 2}),
    ],
)  # fmt: skip
def test_what_the_family_does_not_have_is_named(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    variant = BY_NAME[name]
    config = variant.config or variant.build().config.to_dict()
    with pytest.raises(ConfigError, match=next(reversed(changes))):
        deepseek.Config.from_hf({**config, **changes})
