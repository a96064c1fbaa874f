"""What a checkpoint's JSON files say about turning tokens into vectors and scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.config import Settings
from atoll.errors import ConfigError, UnsupportedModel, ValidationError
from atoll.weights.modules import (
    POOLING_MODES,
    Module,
    length_limit,
    read_modules,
    read_object,
    read_poolings,
)

# Modules that may follow the pooling; Dropout does nothing once a model is trained.
_AFTER_POOLING = ("Dense", "Normalize", "Dropout")
_POOLINGS = ("Pooling", "SpladePooling")


@dataclass(frozen=True)
class EncoderSpec:
    """Pooling, length, prompts and labels.

    pooling: "splade", or keys of POOLING_MODES joined by "+". max_length: tokens, special ones
    included. prompts: text put before an input, by name. steps: what follows the pooling, in order:
    the folder of a Dense module, or None for a division by the length. labels: in the order of the
    logits. problem_type: config.json's, or what transformers' pipeline assumes without one.
    """

    pooling: str
    max_length: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    steps: tuple[Path | None, ...] = ()
    labels: tuple[str, ...] = ()
    problem_type: str = "single_label_classification"

    @classmethod
    def read(
        cls, folder: Path, raw: Mapping[str, Any], settings: Settings, max_positions: int
    ) -> EncoderSpec:
        """Settings win over the files; CLS is what a model without files is pooled by.

        Raises:
            ConfigError: a pooling that is not known, a default prompt that the model lacks, or a
                length beyond ``max_batch_tokens`` where inputs may not be cut.
        """
        modules = read_modules(folder)
        prompts, default = _prompts(folder, settings)
        labels = _labels(raw)
        return cls(
            pooling=_pooling(folder, modules, settings),
            max_length=_max_length(folder, settings, max_positions),
            prompts=prompts,
            default_prompt_name=default,
            steps=_steps(folder, modules, settings),
            labels=labels,
            problem_type=raw.get("problem_type")
            or ("single" if len(labels) > 1 else "multi") + "_label_classification",
        )

    def prompt(self, settings: Settings, name: Any) -> str:
        """The text that goes before an input, by a request's ``prompt_name`` or the defaults.

        Raises:
            ValidationError: the model has no such prompt.
        """
        if name is None and settings.default_prompt is not None:
            return settings.default_prompt
        name = self.default_prompt_name if name is None else str(name)
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValidationError(f"prompt_name is {name!r}; the model has {sorted(self.prompts)}")
        return self.prompts[name]


def check_modules(folder: Path, spec: EncoderSpec, settings: Settings) -> None:
    """That modules.json is a trunk, a pooling, and what may follow it.

    Raises:
        UnsupportedModel: it is not; names the modules.
    """
    modules = read_modules(folder)
    # Settings say what a file without a pooling does not.
    if not modules or (settings.pooling is not None and len(modules) == 1):
        return
    foreign = [m.type for m in modules if not m.type.startswith("sentence_transformers.")]
    if foreign:
        raise UnsupportedModel(
            f"{folder}/modules.json: {foreign} are not sentence-transformers' own; Atoll never "
            "runs a checkpoint's code"
        )
    kinds = [m.kind for m in modules]
    is_known = modules[0].is_transformer and kinds[1:2] and kinds[1] in _POOLINGS
    if not is_known or not set(kinds[2:]) <= set(_AFTER_POOLING):
        raise UnsupportedModel(
            f"{folder}/modules.json: modules {kinds} are not supported; supported: Transformer, "
            f"then {' or '.join(_POOLINGS)}, then any of {', '.join(_AFTER_POOLING)}"
        )
    config = read_object(folder / modules[1].path / "config.json")
    has_prompt = any(spec.prompts.values()) or settings.default_prompt
    if config.get("include_prompt") is False and has_prompt:
        raise UnsupportedModel(
            f"{folder}/{modules[1].path}: include_prompt is false; pooling without the tokens of "
            "the prompt is not supported"
        )


def _prompts(folder: Path, settings: Settings) -> tuple[dict[str, str], str | None]:
    own = read_object(folder / "config_sentence_transformers.json")
    named = own.get("prompts") or {}
    prompts = {name: text for name, text in named.items() if isinstance(text, str)}
    if settings.prompts is not None:
        try:
            found = json.loads(settings.prompts)
        except ValueError as error:
            raise ConfigError(f"prompts is not valid JSON: {error}") from None
        if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
            raise ConfigError("prompts must be a JSON object of names and texts")
        prompts |= found
    default = settings.default_prompt_name or own.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ConfigError(f"default_prompt_name is {default!r}; the model has {sorted(prompts)}")
    return prompts, default


def _max_length(folder: Path, settings: Settings, max_positions: int) -> int:
    length = min(length_limit(folder) or max_positions, max_positions)
    length = min(length, settings.max_input_tokens or length)
    if length > settings.max_batch_tokens and not settings.auto_truncate:
        raise ConfigError(
            f"max_batch_tokens is {settings.max_batch_tokens}; a text may have {length} tokens "
            "and auto_truncate is false"
        )
    return min(length, settings.max_batch_tokens)


def _pooling(folder: Path, modules: tuple[Module, ...], settings: Settings) -> str:
    if settings.pooling is not None:
        known = (*POOLING_MODES, "splade")
        if settings.pooling not in known:
            raise ConfigError(f"pooling is {settings.pooling!r}; known: {', '.join(known)}")
        return settings.pooling
    if any(m.kind == "SpladePooling" for m in modules):
        return "splade"
    return "+".join(read_poolings(folder)) or "cls"


def _steps(
    folder: Path, modules: tuple[Module, ...], settings: Settings
) -> tuple[Path | None, ...]:
    """The last division by the length is left out: a request says whether it wants one."""
    if settings.dense_path is not None:
        return (folder / settings.dense_path,)
    after = [m for m in modules[2:] if m.kind != "Dropout"]
    while after and after[-1].kind == "Normalize":
        after.pop()
    return tuple(folder / m.path if m.kind == "Dense" else None for m in after)


def _labels(raw: Mapping[str, Any]) -> tuple[str, ...]:
    names = raw.get("id2label")
    if isinstance(names, Mapping) and names:
        return tuple(str(names[key]) for key in sorted(names, key=int))
    return tuple(f"LABEL_{index}" for index in range(int(raw.get("num_labels", 2))))
