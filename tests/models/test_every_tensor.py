"""Every tensor of a checkpoint: left out, transposed, one row more, of integers, or one too many.

transformers puts random numbers where a tensor is missing and only warns. Here each is an error
that names the tensor; nothing of it may be answered with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny.checkpoint import Tensors
from tiny.families import FAMILIES, Family
from torch import Tensor

from atoll.errors import WeightError

# What a model does without: poolers that nothing asked for, other heads, repeated and old tensors,
# parts for images, what scales the products of vectors, keys and values where others' are read.
SPARE = re.compile(
    r"pooler\.|position_ids|^cls\.|(encoder|decoder)\.embed_tokens|"
    r"masked_bias|inv_freq|logit_scale|logit_bias|EncDecAttention\.relative_attention_bias|"
    r"final_logits_bias|embed_positions\.weights|"
    r"vision_tower|embed_vision|multi_modal_projector|^model\.visual\.|"
    r"language_model\.layers\.[45]\.self_attn\.[kv]_"
)
# What is numbered besides the layers: a table of words, and the blocks of ALBERT's groups.
_INNER = re.compile(r"layers\.0\.wte|albert_layers\.0")


@dataclass(frozen=True, repr=False)
class Case:
    family: Family
    folder: Path
    tensors: Tensors
    result: Tensor

    def error(self, tensors: Tensors) -> str | None:
        """What loading these tensors is refused with; None where it is not.

        "same" if all was there nevertheless: repeated by another tensor, or tied to one.
        """
        contiguous = {name: t.contiguous() for name, t in tensors.items()}
        path = self.folder / "model.safetensors"
        # A file that is emptied and filled again is written to the disk at once: 5 ms.
        path.unlink()
        save_file(contiguous, path)
        try:
            result = self.family.ours(self.folder)
        except WeightError as error:
            return str(error)
        except Exception as error:
            return f"raw {type(error).__name__}: {error}"
        return "same" if torch.equal(result, self.result) else None

    def damaged(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors outside the layers, and those of the second, since all layers are alike."""
        for name, tensor in self.tensors.items():
            is_first = ".0." in _INNER.sub("", name)
            is_alike = is_first and "relative_attention_bias" not in name
            if not is_alike and not SPARE.search(name):
                yield name, tensor


# Configs whose tensors are those of another family here.
SAME_TENSORS = (
    "llama-yarn", "llama-llama3", "mistral-window", "mpt-grouped", "flan-t5", "bart", "m2m100",
    "marian", "qwen2-old",
    "cohere2", "olmo3", "mistral3",
    "gemma3-old",
    "moonlight", "modernbert-old", "gte-ntk",
)  # fmt: skip


@pytest.fixture(scope="module", params=[f for f in FAMILIES if f.name not in SAME_TENSORS], ids=str)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family: Family = request.param
    folder = tmp_path_factory.mktemp("checkpoint")
    family.write(folder)
    tensors = load_file(folder / "model.safetensors")
    found = Case(family, folder, tensors, family.ours(folder))
    assert len(list(found.damaged())) >= 7
    return found


def _check(outcomes: dict[str, str | None], may_be_spare: bool = False) -> None:
    """Every outcome is an error that names the tensor; or nothing changed, if that may be."""
    if may_be_spare:
        outcomes = {what: error for what, error in outcomes.items() if error != "same"}
    wrong = [
        f"{what}: {error}" for what, error in outcomes.items()
        if error is None or error.startswith("raw ") or what.split(" ")[0] not in error
    ]  # fmt: skip
    assert outcomes and not wrong, "\n".join(wrong)


def test_left_out(case: Case) -> None:
    _check({
        name: case.error({k: t for k, t in case.tensors.items() if k != name})
        for name, _ in case.damaged()
    }, may_be_spare=True)  # fmt: skip


def test_of_another_shape_or_type(case: Case) -> None:
    outcomes = {}
    for index, (name, tensor) in enumerate(case.damaged()):
        longer = torch.cat([tensor, tensor[:1]])
        changes = {"longer": longer} if index % 2 else {"integers": tensor.int()}
        if tensor.dim() == 2 and tensor.shape[0] != tensor.shape[1]:
            changes["transposed"] = tensor.t()
        if tensor.dim() == 3:
            changes["transposed"] = tensor.transpose(1, 2)
        for what, changed in changes.items():
            outcomes[f"{name} {what}"] = case.error({**case.tensors, name: changed})
    _check(outcomes)


def test_one_too_many(case: Case) -> None:
    """A bias where the config knows none, a norm that the family lacks, a layer more."""
    names = [name for name, _ in case.damaged()]
    layers = [name for name in names if re.search(r"\.[1-9]\.", name) and name.endswith("weight")]
    extra = {}
    for name in layers[::2]:
        bias = name.removesuffix("weight") + "bias"
        extra[bias] = torch.ones(len(case.tensors[name]))
        extra[re.sub(r"\.[1-9]\.", ".7.", name, count=1)] = case.tensors[name].clone()
    first = re.match(r".*?\.[1-9]\.", layers[0])
    assert first is not None
    extra[f"{first[0]}some_norm.weight"] = torch.ones(8)
    _check({
        name: case.error({**case.tensors, name: tensor})
        for name, tensor in extra.items() if name not in case.tensors
    })  # fmt: skip


def test_zeros_for_a_bias_change_nothing(case: Case) -> None:
    """Writers of old GPTQ files gave every layer a bias."""
    layers = [n for n, t in case.damaged() if t.dim() == 2 and re.search(r"\.1\.", n)]
    biases = {f"{n.removesuffix('weight')}bias": torch.zeros(len(case.tensors[n])) for n in layers}
    more = {name: zeros for name, zeros in biases.items() if name not in case.tensors}
    assert not more or case.error({**case.tensors, **more}) == "same"
