"""Adapters whose files are damaged or contradict each other: refused by key or tensor.

A left-out pair of matrices was served as if the adapter had none there, another ``r`` changed
nothing, and a text for ``lora_alpha`` was one of Python's own errors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import save_adapter
from driving import load, save_llama
from safetensors.torch import load_file, save_file

from atoll.errors import ConfigError, WeightError
from atoll.models.families import DECODERS
from atoll.models.registry import Checkpoint, architecture
from atoll.runner.lora import attach_adapters
from atoll.runner.lora_config import LoraConfig

# What says how it was made, and nothing about what it is.
UNREAD = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "inference_mode", "layers_pattern", "loftq_config", "lora_dropout", "lora_ga_config",
    "megatron_core", "peft_version", "qalora_group_size", "revision", "task_type", "velora_config",
}  # fmt: skip
WRONG = ["text", "4", 0, -1, 1.5, float("nan"), True, False, [3], {"a": 1}, None]


@dataclass(frozen=True, repr=False)
class Case:
    base: Path
    folder: Path
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def outcome(self, config: Any = None, tensors: Any = None) -> str:
        """The error, or a digest of what the adapter adds."""
        path = self.folder / "adapter_config.json"
        path.write_text(json.dumps(config or self.config))
        save_file(tensors or self.tensors, self.folder / "adapter_model.safetensors")
        try:
            LoraConfig.read(self.folder)
        except ConfigError as error:
            return f"refused: {error}"
        model = load(self.base)
        table = architecture(Checkpoint.open(self.base).raw, DECODERS).WEIGHTS
        try:
            attach_adapters(model, table, self.base, {"x": self.folder}, torch.float32)
        except WeightError as error:
            return f"refused: {error}"
        sums = [
            (delta.b @ delta.a).sum().item()
            for module in model.modules() if type(module).__name__ == "AdaptedLinear"
            for delta in module.deltas.values()
        ]  # fmt: skip
        return f"loaded: {len(sums)} {sum(sums):.4f}"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp("adapters")
    save_llama(root / "base")
    save_adapter(
        root / "base", root / "a", 1, ["q_proj", "down_proj"], r=4, lora_alpha=16,
        rank_pattern={"down_proj": 3}, alpha_pattern={"down_proj": 6},
    )  # fmt: skip
    config = json.loads((root / "a" / "adapter_config.json").read_text())
    tensors = load_file(root / "a" / "adapter_model.safetensors")
    found = Case(root / "base", root / "a", config, tensors)
    assert len(tensors) == 8 and found.outcome().startswith("loaded: 4")
    return found


def test_every_matrix(case: Case) -> None:
    for name, tensor in case.tensors.items():
        layer = name.removeprefix("base_model.model.").split(".lora_")[0]
        rest = {n: t for n, t in case.tensors.items() if n != name}
        neither = {n: t for n, t in rest.items() if layer not in n}
        outcomes = {
            "left out": case.outcome(tensors=rest),
            "left out with its other half": case.outcome(tensors=neither),
            "transposed": case.outcome(tensors={**rest, name: tensor.t().contiguous()}),
            "longer": case.outcome(tensors={**rest, name: torch.cat([tensor, tensor[:1]])}),
            "wider": case.outcome(tensors={**rest, name: torch.cat([tensor, tensor[:, :1]], 1)}),
            "integers": case.outcome(tensors={**rest, name: tensor.int()}),
            "flat": case.outcome(tensors={**rest, name: tensor.flatten()}),
        }
        wrong = {k: v for k, v in outcomes.items() if not v.startswith("refused") or layer not in v}
        assert not wrong, name


def test_every_key(case: Case) -> None:
    whole, wrong = case.outcome(), []
    # PEFT's default, a pattern that fits no layer, and values that may be meant.
    sound = {
        "alpha_pattern left out", "alpha_pattern {'a': 1}", "alpha_pattern None",
        "lora_alpha left out", "lora_alpha 1.5", "use_rslora True",
    }  # fmt: skip
    for key in case.config:
        if key in UNREAD:
            continue
        rest = {k: v for k, v in case.config.items() if k != key}
        outcomes = {"left out": case.outcome(rest)}
        for value in WRONG:
            if f"{key} {value!r}" not in sound:
                outcomes[repr(value)] = case.outcome({**rest, key: value})
        wrong += [
            f"{key} {what}: {outcome}" for what, outcome in outcomes.items()
            if outcome != whole and f"{key} {what}" not in sound
            and not (outcome.startswith("refused") and key in outcome)
        ]  # fmt: skip
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"r": 5}, {"rank_pattern": {}}, {"rank_pattern": {"down_proj": 4}},
        {"rank_pattern": {"(": 3}}, {"alpha_pattern": {"q_proj": "16"}},
        {"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}, {"use_dora": True},
        {"alora_invocation_tokens": [1, 2]}, {"target_parameters": ["experts.down_proj"]},
        {"layer_replication": [[0, 2]]}, {"target_modules": ["q_proj", "down_proj", "v_proj"]},
        {"bias": "all"}, {"peft_type": "IA3"}, {"layers_to_transform": "0"},
    ],
    ids=str,
)  # fmt: skip
def test_what_would_change_the_answers_is_refused(change: dict[str, Any], case: Case) -> None:
    outcome = case.outcome({**case.config, **change})
    assert outcome.startswith("refused") and next(iter(change)) in outcome


@pytest.mark.parametrize("text", ["", "{", "[]", '"LORA"', '{"peft_type": "LORA", "r"'])
def test_a_config_that_is_cut_off(text: str, case: Case) -> None:
    (case.folder / "adapter_config.json").write_text(text)
    model = load(case.base)
    table = architecture(Checkpoint.open(case.base).raw, DECODERS).WEIGHTS
    with pytest.raises(ConfigError, match=r"adapter_config\.json"):
        attach_adapters(model, table, case.base, {"x": case.folder}, torch.float32)


def test_old_files_and_files_beside_a_model(case: Case) -> None:
    """adapter_model.bin was not found, and a model in the same folder was taken for the adapter."""
    whole = case.outcome()
    torch.save(case.tensors, case.folder / "adapter_model.bin")
    (case.folder / "adapter_model.safetensors").unlink()
    save_file({"model.norm.weight": torch.ones(4)}, case.folder / "model.safetensors")
    model = load(case.base)
    table = architecture(Checkpoint.open(case.base).raw, DECODERS).WEIGHTS
    attach_adapters(model, table, case.base, {"x": case.folder}, torch.float32)
    assert whole.startswith("loaded")
    for name in ("adapter_model.bin", "model.safetensors"):
        (case.folder / name).unlink()
