"""Reads from a checkpoint folder's JSON files what the model is for and how it is built.

Only small files are read: no weights, no tokenizer, and never a checkpoint's own code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.errors import ConfigError, UnsupportedModel

_ENCODER_TYPES = ("bert", "roberta", "xlm-roberta", "camembert")
# Their positions begin after the padding token's id.
_OFFSET_TYPES = ("roberta", "xlm-roberta", "camembert")
# Their config.json may name a bare model ("BloomModel") or a class of the checkpoint's own code.
_GENERATOR_TYPES = (
    "bloom", "falcon", "RefinedWeb", "RefinedWebModel", "gpt2", "gpt_bigcode", "gpt_neox", "llama",
    "mistral", "mixtral", "mixformer-sequential", "mpt", "opt", "phi", "phi-msft", "t5",
)  # fmt: skip
_GENERATOR_CLASSES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "LMHeadCustomModel")
_HIDDEN_SIZE_KEYS = ("hidden_size", "n_embd", "n_embed", "d_model")
_MAX_TOKENS_KEYS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length",
)  # fmt: skip


@dataclass(frozen=True)
class Detected:
    """What a checkpoint is.

    architecture: the first of config.json's ``architectures``, or "" where it has none.
    embedding_size: width of the vectors an embedder answers with, after its Dense module.
    labels: a classifier's labels in the order of its logits.
    """

    task: str
    architecture: str
    model_type: str
    hidden_size: int
    embedding_size: int
    max_tokens: int | None
    dtype: str | None
    labels: tuple[str, ...] = ()


def read_model(folder: Path, task: str | None = None, dense_path: str | None = None) -> Detected:
    """What the checkpoint in ``folder`` is.

    Args:
        task: overrides what the files say.
        dense_path: folder of the Dense module, relative to ``folder``; from modules.json if None.

    Raises:
        ConfigError: a file is missing or malformed.
        UnsupportedModel: no task fits; names the architecture.
    """
    config = _object(folder / "config.json")
    modules = _modules(folder)
    names = [str(name) for name in config.get("architectures") or ()]
    labels = _labels(config) if _has(names, ("ForSequenceClassification",)) else ()
    hidden = _first(config, _HIDDEN_SIZE_KEYS)
    if hidden is None:
        raise ConfigError(f"{folder}/config.json has none of {', '.join(_HIDDEN_SIZE_KEYS)}")
    return Detected(
        task=task or _task(folder, config, names, modules, labels),
        architecture=names[0] if names else "",
        model_type=str(config.get("model_type", "")),
        hidden_size=hidden,
        embedding_size=_embedding_size(folder, modules, dense_path, hidden),
        max_tokens=_max_tokens(folder, config),
        dtype=config.get("torch_dtype") or config.get("dtype"),
        labels=labels,
    )


def _task(
    folder: Path,
    config: Mapping[str, Any],
    names: Sequence[str],
    modules: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
) -> str:
    model_type = str(config.get("model_type", ""))
    kinds = [str(module.get("type", "")) for module in modules]
    if labels:
        return "rerank" if len(labels) == 1 else "classify"
    if any("Splade" in kind for kind in kinds):
        return "sparse"
    # A decoder with pooling modules is an embedder, whatever its class is called.
    if any(kind.endswith("Pooling") for kind in kinds) or model_type in _ENCODER_TYPES:
        return "embed"
    if _has(names, _GENERATOR_CLASSES) or model_type in _GENERATOR_TYPES:
        return "generate"
    raise UnsupportedModel(
        f"{folder}: cannot tell the task of architectures {list(names)} "
        f"(model_type {model_type!r}); name it with --task"
    )


def _embedding_size(
    folder: Path, modules: Sequence[Mapping[str, Any]], dense_path: str | None, hidden: int
) -> int:
    """out_features of the last Dense module, or the hidden size."""
    paths = [str(m.get("path")) for m in modules if str(m.get("type", "")).endswith(".Dense")]
    if dense_path is not None:
        paths = [dense_path]
    if not paths:
        return hidden
    return int(_object(folder / paths[-1] / "config.json")["out_features"])


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Labels by index; transformers gives a classifier two if its config names none."""
    names = config.get("id2label")
    if isinstance(names, Mapping) and names:
        return tuple(str(names[key]) for key in sorted(names, key=int))
    count = config.get("num_labels", 2)
    return tuple(f"LABEL_{index}" for index in range(int(count)))


def _max_tokens(folder: Path, config: Mapping[str, Any]) -> int | None:
    path = folder / "sentence_bert_config.json"
    own = _object(path).get("max_seq_length") if path.exists() else None
    positions = _first(config, _MAX_TOKENS_KEYS)
    if positions is not None and config.get("model_type") in _OFFSET_TYPES:
        positions -= int(config.get("pad_token_id", 1)) + 1
    return own or positions


def _modules(folder: Path) -> list[Mapping[str, Any]]:
    path = folder / "modules.json"
    found = _json(path) if path.exists() else []
    if not isinstance(found, list):
        raise ConfigError(f"{path}: expected a list")
    return [module for module in found if isinstance(module, dict)]


def _has(names: Sequence[str], endings: Sequence[str]) -> bool:
    return any(name.endswith(tuple(endings)) for name in names)


def _first(config: Mapping[str, Any], keys: Sequence[str]) -> int | None:
    return next((int(config[key]) for key in keys if config.get(key) is not None), None)


def _object(path: Path) -> Mapping[str, Any]:
    found = _json(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected an object")
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
