"""Reads from a checkpoint folder's JSON files what the model is for and how it is built.

Only small files are read: no weights, no tokenizer, and never a checkpoint's own code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.errors import ConfigError, UnsupportedModel
from atoll.weights.modules import (
    Module,
    check_modules,
    length_limit,
    read_modules,
    read_object,
    read_poolings,
    transformer_folder,
)

# model_type -> what people call it; ``models.registry.ENCODERS`` has a file for each.
ENCODER_TYPES = {
    "bert": "BERT and JinaBERT v2", "roberta": "RoBERTa", "xlm-roberta": "XLM-RoBERTa",
    "camembert": "CamemBERT",
}  # fmt: skip
# Their positions begin after the padding token's id.
_OFFSET_TYPES = ("roberta", "xlm-roberta", "camembert")
# Their config.json may name a bare model ("BloomModel") or a class of the checkpoint's own code.
_GENERATOR_TYPES = (
    "bloom", "falcon", "RefinedWeb", "RefinedWebModel", "gpt2", "gpt_bigcode", "gpt_neox", "llama",
    "mistral", "mixtral", "mixformer-sequential", "mpt", "opt", "phi", "phi-msft", "t5",
)  # fmt: skip
_GENERATOR_CLASSES = (
    "ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "LMHeadCustomModel", "MTModel",
)  # fmt: skip
_SUPPORTED = f"supported encoders are {', '.join(ENCODER_TYPES.values())}"
_ENCODER_TASKS = ("embed", "sparse", "rerank", "classify")
_HIDDEN_SIZE_KEYS = ("hidden_size", "n_embd", "n_embed", "d_model")
_MAX_TOKENS_KEYS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length",
)  # fmt: skip


@dataclass(frozen=True)
class Detected:
    """What a checkpoint is.

    architecture: the first of config.json's ``architectures``, or "" where it has none.
    embedding_size: width of the vectors an embedder answers with, after its Dense modules.
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


def read_model(
    folder: Path,
    task: str | None = None,
    dense_path: str | None = None,
    pooling: str | None = None,
) -> Detected:
    """What the checkpoint in ``folder`` is.

    Args:
        task, pooling: override what the files say.
        dense_path: folder of the Dense module, relative to ``folder``; from modules.json if None.

    Raises:
        ConfigError: a file is missing or malformed.
        UnsupportedModel: no task fits, or the architecture or its modules cannot be served; names
            them and what can.
    """
    modules = read_modules(folder)
    trunk = transformer_folder(folder)
    if modules and not modules[0].is_transformer:
        check_modules(folder, task or "embed")
    if not (trunk / "config.json").exists():
        raise ConfigError(f"{trunk}/config.json is missing")
    config = read_object(trunk / "config.json")
    names = [str(name) for name in config.get("architectures") or ()]
    labels = _labels(config) if _has(names, ("ForSequenceClassification",)) else ()
    if task is None and pooling == "splade":  # how TEI asks for it
        task = "sparse"
    task = task or _task(folder, config, names, modules, labels)
    if task in _ENCODER_TASKS:
        _check_encoder(folder, config, names, task)
        check_modules(folder, task, pooling)
    hidden = _first(config, _HIDDEN_SIZE_KEYS)
    if hidden is None and task == "generate":
        hidden = 0  # nothing depends on it, and transformers' families call it what they like
    if hidden is None:
        raise ConfigError(f"{trunk}/config.json has none of {', '.join(_HIDDEN_SIZE_KEYS)}")
    return Detected(
        task=task,
        architecture=names[0] if names else "",
        model_type=str(config.get("model_type", "")),
        hidden_size=hidden,
        embedding_size=_embedding_size(folder, modules, dense_path, pooling, hidden),
        max_tokens=_max_tokens(folder, config),
        dtype=config.get("torch_dtype") or config.get("dtype"),
        labels=labels,
    )


def _task(
    folder: Path,
    config: Mapping[str, Any],
    names: Sequence[str],
    modules: Sequence[Module],
    labels: Sequence[str],
) -> str:
    model_type = str(config.get("model_type", ""))
    kinds = [module.kind for module in modules]
    saved = read_object(folder / "config_sentence_transformers.json").get("model_type")
    if labels or saved == "CrossEncoder":
        return "classify" if len(labels) > 1 else "rerank"
    if "SpladePooling" in kinds:
        return "sparse"
    # A decoder with pooling modules is an embedder, whatever its class is called.
    if "Pooling" in kinds or model_type in ENCODER_TYPES:
        return "embed"
    # T5EncoderModel has the model_type of a generator.
    if _has(names, ("EncoderModel",)):
        return "embed"
    if _has(names, _GENERATOR_CLASSES) or model_type in _GENERATOR_TYPES:
        return "generate"
    if not names and model_type:
        from atoll.models import fallback

        if fallback.generates(model_type):
            return "generate"
    raise UnsupportedModel(
        f"{folder}: {_shown(names, model_type)} is not supported: {_SUPPORTED}; other generators "
        "of transformers are served with --task generate"
    )


def _check_encoder(
    folder: Path, config: Mapping[str, Any], names: Sequence[str], task: str
) -> None:
    model_type = str(config.get("model_type", ""))
    if model_type not in ENCODER_TYPES:
        raise UnsupportedModel(
            f"{folder}: {_shown(names, model_type)} is not supported for task {task!r}: "
            f"{_SUPPORTED}"
        )


def _shown(names: Sequence[str], model_type: str) -> str:
    return f"{names[0] if names else 'a model without architectures'} (model_type {model_type!r})"


def _embedding_size(
    folder: Path,
    modules: Sequence[Module],
    dense_path: str | None,
    pooling: str | None,
    hidden: int,
) -> int:
    """out_features of the last Dense module, or the hidden size for each pooling."""
    paths = [m.path for m in modules if m.kind == "Dense"]
    if dense_path is not None:
        paths = [dense_path]
    if not paths:
        return hidden if pooling else hidden * max(1, len(read_poolings(folder)))
    config = read_object(folder / paths[-1] / "config.json")
    if "out_features" not in config:
        raise ConfigError(f"{folder / paths[-1]}/config.json has no out_features")
    return int(config["out_features"])


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Labels by index; transformers gives a classifier two if its config names none."""
    names = config.get("id2label")
    try:
        if isinstance(names, Mapping) and names:
            return tuple(str(names[key]) for key in sorted(names, key=int))
    except ValueError as error:
        raise ConfigError(f"config.json: id2label has keys that are no numbers: {error}") from error
    count = config.get("num_labels") or 2
    return tuple(f"LABEL_{index}" for index in range(int(count)))


def _max_tokens(folder: Path, config: Mapping[str, Any]) -> int | None:
    positions = _first(config, _MAX_TOKENS_KEYS)
    if positions is not None and config.get("model_type") in _OFFSET_TYPES:
        padding = config.get("pad_token_id")
        positions -= (1 if padding is None else int(padding)) + 1
    own = length_limit(folder) if config.get("model_type") in ENCODER_TYPES else None
    limits = [int(limit) for limit in (own, positions) if limit]
    return min(limits) if limits else None


def _has(names: Sequence[str], endings: Sequence[str]) -> bool:
    return any(name.endswith(tuple(endings)) for name in names)


def _first(config: Mapping[str, Any], keys: Sequence[str]) -> int | None:
    """The first of ``keys`` with a size; models for text and images keep them one level down."""
    inner = config.get("text_config")
    for source in (config, inner if isinstance(inner, Mapping) else {}):
        for key in keys:
            # Some families write -1 for "any".
            if source.get(key) is not None and int(source[key]) > 0:
                return int(source[key])
    return None
