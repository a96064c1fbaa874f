"""Triton's auto-completion of a config.pbtxt that names only a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.serving.triton.auto_complete import complete
from atoll.serving.triton.tensor_specs import TASK_TENSORS


class Config:
    """What Triton hands over, as far as it is used."""

    def __init__(self, **given: Any) -> None:
        self.given: dict[str, Any] = {"input": [], "output": [], **given}

    def as_dict(self) -> dict[str, Any]:
        return self.given

    def add_input(self, tensor: dict[str, Any]) -> None:
        self.given["input"].append(tensor)

    def add_output(self, tensor: dict[str, Any]) -> None:
        self.given["output"].append(tensor)

    def set_max_batch_size(self, size: int) -> None:
        self.given["max_batch_size"] = size

    def set_dynamic_batching(self) -> None:
        self.given["dynamic_batching"] = {}

    def set_model_transaction_policy(self, policy: dict[str, Any]) -> None:
        self.given["model_transaction_policy"] = policy


@pytest.mark.parametrize("task", sorted(TASK_TENSORS))
def test_an_empty_config_gets_the_tensors_of_its_task(task: str) -> None:
    """An entry with backend and model_id alone was loaded with no inputs at all: an embedder
    refused every tensor, and a generator said that ``text_input`` was empty."""
    found = complete(Config(), task).given
    wire = TASK_TENSORS[task]
    assert [tensor["name"] for tensor in found["input"]] == [t.name for t in wire.inputs]
    assert [tensor["name"] for tensor in found["output"]] == [t.name for t in wire.outputs]
    assert all(type(dim) is int for tensor in found["output"] for dim in tensor["dims"])
    assert [tensor["optional"] for tensor in found["input"]] == [t.optional for t in wire.inputs]
    assert found["max_batch_size"] == wire.max_batch_size
    assert ("dynamic_batching" in found) == (wire.max_batch_size > 0)
    assert ("model_transaction_policy" in found) == wire.decoupled


def test_a_config_with_tensors_is_left_alone() -> None:
    given = {"input": [{"name": "text_input"}], "output": [{"name": "embedding"}]}
    assert complete(Config(**given), "embed").given == given
