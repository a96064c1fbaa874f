"""An entry's two files, from one template per task; tensors come from ``tensor_specs``.

A template says which class serves the task and which blocks its config.pbtxt has besides the
tensors. A new task is one more template.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from atoll.catalogue.entries import Entry
from atoll.catalogue.pipelines import HEADER, Pipeline, model_file
from atoll.errors import UnsupportedModel
from atoll.serving.triton.tensor_specs import TASK_TENSORS, TaskTensors, TensorSpec

CONFIG = "config.pbtxt"
MODEL = "1/model.py"

_OWN_HEADER = (
    "# Written by `atoll add`, and yours to change: parameters are settings by their names.\n"
)
_DYNAMIC_BATCHING = "dynamic_batching {\n  max_queue_delay_microseconds: 0\n}\n"
_DECOUPLED = "model_transaction_policy {\n  decoupled: true\n}\n"


@dataclass(frozen=True)
class Template:
    """How the entries of one task are written.

    description: the docstring of model.py, with the entry's name and model id filled in.
    blocks: config.pbtxt after the tensors.
    """

    model_class: str
    description: str
    blocks: tuple[str, ...]


TEMPLATES: Mapping[str, Template] = {
    "embed": Template("EmbedModel", "{model_id}: text to vector.", (_DYNAMIC_BATCHING,)),
    "sparse": Template("SparseModel", "{model_id}: text to sparse vector.", ()),
    "multi_vector": Template("MultiVectorModel", "{model_id}: text to a vector per token.", ()),
    "rerank": Template("RerankModel", "{model_id}: query and texts to scores.", ()),
    "classify": Template("ClassifyModel", "{model_id}: text to a score for each label.", ()),
    "token_classify": Template("TokenClassifyModel", "{model_id}: text to entities.", ()),
    "generate": Template("GenerateModel", "{model_id}: prompt to text.", (_DECOUPLED,)),
    "transcribe": Template("TranscribeModel", "{model_id}: speech to text.", (_DECOUPLED,)),
}


def render(entry: Entry | Pipeline, is_own: bool = False) -> Mapping[str, str]:
    """Text of the entry's files by their path inside the entry's folder.

    Args:
        is_own: for a user's repository, which ``atoll render`` does not overwrite.

    Raises:
        UnsupportedModel: no template for the entry's task.
    """
    if isinstance(entry, Pipeline):
        return entry.files
    if entry.task not in TEMPLATES:
        raise UnsupportedModel(
            f"{entry.model_id}: task {entry.task!r} is not served; served: {sorted(TEMPLATES)}"
        )
    template, wire = TEMPLATES[entry.task], TASK_TENSORS[entry.task]
    header = _OWN_HEADER if is_own else HEADER
    description = template.description.format(model_id=Path(entry.model_id).name)
    return {
        CONFIG: header + _config(entry, template, wire),
        MODEL: model_file(template.model_class, description),
    }


def write_repository(
    entries: Iterable[Entry | Pipeline], folder: Path, is_own: bool = False
) -> None:
    """Writes every entry's files below ``folder``; leaves other files there untouched.

    is_own: see ``render``.
    """
    for entry in entries:
        for name, text in render(entry, is_own).items():
            path = folder / entry.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def differences(entries: Iterable[Entry | Pipeline], folder: Path) -> list[str]:
    """Paths below ``folder`` that are missing, differ, or belong to no entry."""
    expected = {f"{e.name}/{name}": text for e in entries for name, text in render(e).items()}
    found = {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))


def _config(entry: Entry, template: Template, wire: TaskTensors) -> str:
    rows = int(entry.settings.get("max_client_batch_size", wire.max_batch_size))
    parts = [
        f'name: {_quoted(entry.name)}\nbackend: "python"\n'
        f"max_batch_size: {rows if wire.max_batch_size else 0}\n",
        _tensors("input", wire.inputs, entry),
        _tensors("output", wire.outputs, entry),
        *template.blocks,
        _instances(entry),
        *(
            f"parameters {{\n  key: {_quoted(key)}\n"
            f"  value {{ string_value: {_quoted(value)} }}\n}}\n"
            for key, value in entry.parameters().items()
        ),
    ]
    return "".join(parts)


def _tensors(kind: str, specs: Iterable[TensorSpec], entry: Entry) -> str:
    blocks = []
    for spec in specs:
        if spec.needs is not None and spec.needs not in entry.dims:
            continue
        dims = ", ".join(str(entry.dims[d] if isinstance(d, str) else d) for d in spec.dims)
        optional = "    optional: true\n" if spec.optional else ""
        blocks.append(
            f"  {{\n    name: {_quoted(spec.name)}\n    data_type: TYPE_{spec.dtype}\n"
            f"    dims: [ {dims} ]\n{optional}  }}"
        )
    return f"{kind} [\n" + ",\n".join(blocks) + "\n]\n"


def _instances(entry: Entry) -> str:
    """One process. KIND_MODEL lets the backend choose the GPU, by the device setting."""
    kind = "KIND_MODEL" if entry.settings.get("device", "").startswith("cuda") else "KIND_CPU"
    return f"instance_group [\n  {{\n    count: 1\n    kind: {kind}\n  }}\n]\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
