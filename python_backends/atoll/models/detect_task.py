"""What a checkpoint is for: its task, by its files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atoll.errors import UnsupportedModel
from atoll.models import families, rerankers, unsupported
from atoll.models.fallback_encoder_choice import (
    EncoderChoice,
    choose,
    is_encoder_only,
    is_listed,
    refusal,
)
from atoll.weights.late_interaction import is_late_interaction
from atoll.weights.modules import Module, read_object, transformer_folder

_GENERATOR_CLASSES = (
    "ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "LMHeadCustomModel", "MTModel",
)  # fmt: skip
# Generators whose config.json names the trunk.
_GENERATOR_TRUNKS = ("BloomModel",)
TOKEN_CLASSIFIER = "ForTokenClassification"
_SUPPORTED = "supported encoders are " + ", ".join(
    f"{name} ({model_type})" for model_type, name in families.ENCODER_NAMES.items()
)


def task_of(
    folder: Path,
    config: Mapping[str, Any],
    names: Sequence[str],
    modules: Sequence[Module],
    labels: Sequence[str],
    reranker_template: str | None = None,
) -> str:
    """The task of a checkpoint that nobody named one for.

    Args:
        names: config.json's architectures. labels: a classifier's. reranker_template: the setting.

    Raises:
        UnsupportedModel: none fits; names what is supported.
    """
    model_type = str(config.get("model_type", ""))
    kinds = [module.kind for module in modules]
    saved = read_object(folder / "config_sentence_transformers.json").get("model_type")
    if is_late_interaction(folder, names):
        return "multi_vector"
    # What the modules are put together for, whatever the trunk was trained as.
    if "SpladePooling" in kinds:
        return "sparse"
    if "Pooling" in kinds and saved != "CrossEncoder":
        return "embed"
    if has_ending(names, (TOKEN_CLASSIFIER,)):
        return "token_classify"
    if labels or saved == "CrossEncoder" or "LogitScore" in kinds:
        return "classify" if len(labels) > 1 else "rerank"
    if model_type in families.ENCODERS or is_encoder_only(model_type):
        return "embed"
    # T5EncoderModel has the model_type of a generator.
    if has_ending(names, ("EncoderModel",)):
        return "embed"
    if has_ending(names, _GENERATOR_CLASSES) and rerankers.is_decoder(config):
        return "rerank" if rerankers.reranks(folder, reranker_template) else "generate"
    if has_ending(names, _GENERATOR_CLASSES) or names[:1] == list(_GENERATOR_TRUNKS):
        return "generate"
    if not names and (model_type in families.DECODERS or model_type in families.NESTED):
        return "generate"
    if not names and model_type:
        from atoll.models import fallback_choice

        if fallback_choice.generates(model_type):
            return "generate"
    raise UnsupportedModel(
        f"{folder}: {_shown(names, model_type)} is not supported: {_SUPPORTED}; other generators "
        "of transformers are served with --task generate"
    )


def check_encoder(
    folder: Path, config: Mapping[str, Any], names: Sequence[str], task: str
) -> EncoderChoice | None:
    """What of transformers computes the hidden states of an architecture; None: a file here does.

    Raises:
        UnsupportedModel: neither does.
    """
    model_type, choice = str(config.get("model_type", "")), None
    if task in ("embed", "token_classify") and model_type in families.CAUSAL:
        unsupported.check_decoder_trunk(folder, config, names)
        if task == "token_classify":
            unsupported.check_tagger(folder, config)
    elif model_type not in families.ENCODERS:
        # transformers' models are not run with tokens that are not attended to.
        if not is_listed(model_type) or task == "multi_vector":
            reason = refusal(model_type) or f"{_SUPPORTED}; docs/models.md lists those of others"
            raise UnsupportedModel(
                f"{folder}: {_shown(names, model_type)} is not supported for task {task!r}: "
                f"{reason}"
            )
        choice = choose(transformer_folder(folder), task)
    if task == "sparse":
        unsupported.check_query_weights(folder)
    unsupported.check_adapter(transformer_folder(folder))
    return choice


def _shown(names: Sequence[str], model_type: str) -> str:
    return f"{names[0] if names else 'a model without architectures'} (model_type {model_type!r})"


def has_ending(names: Sequence[str], endings: Sequence[str]) -> bool:
    """Whether one of the names has one of the endings."""
    return any(name.endswith(tuple(endings)) for name in names)
