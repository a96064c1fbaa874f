"""Reads a model repository on disk: which entries it has, and the task of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.errors import ConfigError
from atoll.serving.links import LINKED_TASKS, wrong_link
from atoll.serving.triton.tensor_specs import TASK_TENSORS, TensorSpec
from atoll.weights.versions import served_versions, version_model_id

# The outputs of entries of ours that ask others, besides those of a task.
_SEARCH, _TURN = {"index", "score"}, "text_output"


@dataclass(frozen=True)
class ServedModel:
    """One entry of a repository. ``task`` is None if its tensors do not match any task.

    is_ensemble: Triton itself passes tensors between other entries. versions: those that are
    served; the last is the highest, which answers if none is named. folder: the entry's folder.
    steps: the entries that an ensemble consists of. outputs: the names of its output tensors.
    """

    name: str
    task: str | None
    parameters: Mapping[str, str] = field(default_factory=dict)
    is_ensemble: bool = False
    versions: tuple[str, ...] = ("1",)
    folder: Path = Path()
    steps: tuple[str, ...] = ()
    outputs: frozenset[str] = frozenset()

    @property
    def links(self) -> Mapping[str, str]:
        """Entries that a pipeline names, by parameter."""
        if self.task is not None:
            return {}
        return {key: self.parameters[key] for key in LINKED_TASKS if self.parameters.get(key)}

    @property
    def asked(self) -> frozenset[str]:
        """Entries that it calls while it answers; unknown for entries that are not ours."""
        return frozenset(self.steps) | frozenset(self.links.values())

    def check_links(self, others: Mapping[str, ServedModel]) -> None:
        """Raises ConfigError: an entry that it names does something else than it needs.

        others: by name. What is not among them, or is not ours, is not known.
        """
        if self.outputs != _SEARCH and _TURN not in self.outputs:
            return  # somebody else's parameters of the same names
        for parameter, name in self.links.items():
            linked = others.get(name)
            if linked is None or (linked.task is None and not linked.links):
                continue
            besides = ("sparse",) if "sparse_indices" in linked.outputs else ()
            wrong = wrong_link(parameter, name, (linked.kind, *besides))
            if wrong is not None:
                raise ConfigError(f"{self.name}: {wrong}")

    @property
    def kind(self) -> str:
        """What it is, for display: its task, or what it does with other entries."""
        if self.task is not None:
            return self.task
        if self.is_ensemble:
            return "ensemble"
        p = self.parameters
        if "generator" in p:
            return f"conversations with {p['generator']}"
        if self.links:
            return ", then ".join(self.links.values())
        return "tokens" if "model_id" in p else "not ours"

    @property
    def model_id(self) -> str | None:
        """The model id in its config.pbtxt; None if the entry is not ours."""
        return self.parameters.get("model_id", "") if self.task else None

    def checkpoint(self, version: str) -> str:
        """Hub id or folder of a version's checkpoint; "" if the entry is not ours, or names none.

        Raises:
            ConfigError: there is no such checkpoint, or more than one.
        """
        return version_model_id(self.folder, version, self.model_id or "") if self.task else ""


def read_repository(folder: Path) -> list[ServedModel]:
    """Every entry below ``folder``, by name.

    Raises:
        ConfigError: no such folder, no entry in it, or a config.pbtxt that cannot be parsed.
    """
    if not folder.is_dir():
        raise ConfigError(f"model repository {folder}: there is no such folder")
    found = [_read(path) for path in sorted(folder.glob("*/config.pbtxt"))]
    if not found:
        raise ConfigError(f"model repository {folder}: no <entry>/config.pbtxt in it")
    return found


def _read(path: Path) -> ServedModel:
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be parsed: {error}") from error
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    steps = tuple(step.model_name for step in config.ensemble_scheduling.step)
    policy = json_format.MessageToDict(config.version_policy, preserving_proto_field_name=True)
    return ServedModel(
        config.name or path.parent.name, _task(config), parameters, bool(steps),
        served_versions(path.parent, policy), path.parent, steps,
        frozenset(tensor.name for tensor in config.output),
    )  # fmt: skip


def _task(config: Any) -> str | None:
    """The task with these tensors, those that few have aside, and with this transaction policy."""
    for task, wire in TASK_TENSORS.items():
        if (
            _are(config.input, wire.inputs)
            and _are(config.output, wire.outputs)
            and config.model_transaction_policy.decoupled == wire.decoupled
        ):
            return task
    return None


def _are(tensors: Iterable[Any], specs: Iterable[TensorSpec]) -> bool:
    names = {tensor.name for tensor in tensors}
    needed = {spec.name for spec in specs if spec.needs is None}
    return needed <= names <= {spec.name for spec in specs}
