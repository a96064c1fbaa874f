"""GPTQ and AWQ files that lack a tensor or a key, or contradict their config: said by name.

Codes read with another width or group size are numbers like any others: such files were served
with other logits, or refused with one of Python's own errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny.checkpoint import Tensors, write
from tiny.decoders import DECODERS
from tiny.families import IDS
from tiny.paged import PagedRunner
from tiny.quantize import ACTIVATIONS, Packing, is_layer, quantize
from torch import Tensor

from atoll.errors import AtollError, ConfigError, WeightError
from atoll.models.registry import Checkpoint, load_decoder
from atoll.weights.load import LoadOptions
from atoll.weights.quantization import Quantization

CASES: Mapping[str, tuple[str, Packing]] = {
    "gptq-act-order": ("mixtral", Packing()),
    "gptq-in-order": ("gpt-neox", Packing(act_order=False)),
    "gptq-3-bits": ("llama", Packing(bits=3, group_size=32)),
    "awq": ("llama", Packing("awq")),
    "awq-scaled-inputs": ("bloom", Packing("awq")),
}
BY_NAME = {variant.name: variant for variant in DECODERS}
WRONG = ["text", "4", 0, -2, 1.5, float("nan"), True, False, [], [4], {"a": 1}, None, 1 << 40]


@dataclass(frozen=True, repr=False)
class Case:
    folder: Path
    packing: Packing
    config: dict[str, Any]
    tensors: Tensors
    result: Tensor

    def outcome(self, tensors: Tensors | None = None, config: Any = None) -> str:
        """The error that the damaged checkpoint is refused with; "same" or "other" logits."""
        contiguous = {n: t.contiguous() for n, t in (tensors or self.tensors).items()}
        save_file(contiguous, self.folder / "model.safetensors")
        whole = json.loads((self.folder / "config.json").read_text())
        whole["quantization_config"] = self.config if config is None else config
        (self.folder / "config.json").write_text(json.dumps(whole))
        try:
            return "same" if torch.equal(logits(self.folder), self.result) else "other"
        except (ConfigError, WeightError) as error:
            return str(error)
        except Exception as error:
            return f"raw {type(error).__name__}: {error}"

    def quantized(self) -> dict[str, Tensor]:
        """The tensors of one quantised layer of each kind, and the divisors of inputs."""
        ends = ("qweight", "qzeros", "scales", "g_idx")
        return {
            n: t for n, t in self.tensors.items() if n.endswith(ends) and ".1." in n
            and ("experts" not in n or "experts.2." in n)
        }  # fmt: skip


@torch.inference_mode()
def logits(folder: Path) -> Tensor:
    model = load_decoder(Checkpoint.open(folder), LoadOptions())
    return PagedRunner(model).step({"a": IDS})["a"]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name, packing = CASES[request.param]
    folder = tmp_path_factory.mktemp("checkpoint")
    write(BY_NAME[name], folder)
    dense = load_file(folder / "model.safetensors")
    names = [n.removesuffix(".weight") for n in dense if is_layer(n.removesuffix(".weight"))]
    divisors = ACTIVATIONS.get(name) if packing.method == "awq" else None
    tensors, _ = quantize(dense, "|".join(names).replace(".", r"\."), packing, divisors)
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = packing.config()
    (folder / "config.json").write_text(json.dumps(config))
    found = Case(folder, packing, packing.config(), tensors, logits(folder))
    assert found.outcome() == "same" and len(found.quantized()) >= 12
    return found


def _check(outcomes: Mapping[str, str], *, may_be_same: bool = False) -> None:
    """Every error names what was damaged."""
    wrong = [
        f"{what}: {outcome}" for what, outcome in outcomes.items()
        if not (may_be_same and outcome == "same") and what.split(" ")[0] not in outcome
        or outcome.startswith("raw ")
    ]  # fmt: skip
    assert outcomes and not wrong, "\n".join(wrong)


def test_tensors_left_out(case: Case) -> None:
    outcomes = {
        name: case.outcome({n: t for n, t in case.tensors.items() if n != name})
        for name in case.quantized()
    }
    in_order = {n for n in outcomes if n.endswith("g_idx") and not case.packing.act_order}
    assert all(outcomes.pop(name) == "same" for name in in_order)
    _check(outcomes)


def test_tensors_of_another_shape_or_type(case: Case) -> None:
    outcomes = {}
    for name, tensor in case.quantized().items():
        changed = {
            "longer": torch.cat([tensor, tensor[:1]]),
            "type": tensor.int() if tensor.is_floating_point() else tensor.float(),
        }
        if tensor.dim() == 2 and tensor.shape[0] != tensor.shape[1]:
            changed["transposed"] = tensor.t()
        for what, other in changed.items():
            outcomes[f"{name} {what}"] = case.outcome({**case.tensors, name: other})
    _check(outcomes)


def test_keys_left_out_or_wrong(case: Case) -> None:
    keys = sorted({*case.config, "sym", "dynamic", "is_marlin_format"})
    if case.packing.method == "awq":
        keys = sorted(case.config)
    outcomes = {}
    for key in keys:
        rest = {k: v for k, v in case.config.items() if k != key}
        outcomes[key] = case.outcome(config=rest)
        for value in WRONG:
            outcomes[f"{key} {value!r}"] = case.outcome(config={**rest, key: value})
    # What was right without the key: its default, or what the tensors say themselves.
    _check(outcomes, may_be_same=True)


@pytest.mark.parametrize("value", ["text", 5, [], True, {"bits": 4}, {}])
def test_no_object_or_no_method(case: Case, value: Any) -> None:
    assert "quant" in case.outcome(config=value) and "raw" not in case.outcome(config=value)


def test_keys_that_contradict_the_tensors(case: Case) -> None:
    """Each was served before, with other logits."""
    is_gptq = case.packing.method == "gptq"
    changes: list[dict[str, Any]] = [{"group_size": size} for size in (4, 8, 24, 48, 128)]
    if is_gptq:
        changes += [{"bits": bits} for bits in (2, 3, 4, 8) if bits != case.packing.bits]
        changes += [{"sym": True}]
    if case.packing.act_order and is_gptq:
        changes += [{"desc_act": False}]
    for change in changes:
        (key,) = change
        outcome = case.outcome(config={**case.config, **change})
        assert key in outcome and "tensor" in outcome, f"{change}: {outcome}"
    other = {"quant_method": "awq" if is_gptq else "gptq", "bits": 4, "group_size": 16}
    assert "needs shape" in case.outcome(config=other)


def test_groups_out_of_range(case: Case) -> None:
    names = [name for name in case.quantized() if name.endswith("g_idx")]
    for name in names[:1]:
        for wrong in (-1, 1000):
            groups = case.tensors[name].clone()
            groups[3] = wrong
            assert f"{name!r} needs groups" in case.outcome({**case.tensors, name: groups})


def test_a_quantised_config_over_plain_tensors(tmp_path: Path) -> None:
    write(BY_NAME["llama"], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = Packing().config()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightError, match="says gptq, and no tensor is a qweight"):
        logits(tmp_path)


def test_quantised_tensors_without_a_config(case: Case) -> None:
    config = json.loads((case.folder / "config.json").read_text())
    del config["quantization_config"]
    (case.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightError, match="qweight is quantised, and neither"):
        logits(case.folder)


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json"])
@pytest.mark.parametrize("text", ['{"bits": 4, "gro', "", "[4]", "null", "\x00"])
def test_a_file_beside_the_weights_that_is_cut_off(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(AtollError, match=name):
        Quantization.read(tmp_path, {})
