"""A checkpoint's configuration for turning tokens into vectors and scores, from its JSON files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from atoll import json_text
from atoll.config import Settings
from atoll.errors import ConfigError, UnsupportedModel, ValidationError
from atoll.models.config_facts import pooling_of
from atoll.models.encoder_families import WITH_IMAGES
from atoll.weights.json_fields import Fields, read_labels
from atoll.weights.modules import (
    STATIC,
    Module,
    length_limit,
    read_modules,
    read_object,
)
from atoll.weights.token_types import has_token_types

logger = logging.getLogger(__name__)

_SENTENCE_CONFIG = "config_sentence_transformers.json"
# activation_function of a SpladePooling module -> how often the logarithm is applied.
_SPLADE_LOGS = {"relu": 1, "log1p_relu": 2}
# Values of problem_type in a classifier's config.json.
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
# Activations for scores, by the last part of a class's name.
ACTIVATIONS = {"Identity": "identity", "Sigmoid": "sigmoid", "Softmax": "softmax", "Tanh": "tanh"}


class SpladeSpec(NamedTuple):
    """How scores of words become weights.

    is_sum: whether weights are summed over a text's tokens; otherwise, the greatest is used.
    num_logs: how often log(1 + x) is applied to the positive scores.
    """

    is_sum: bool = False
    num_logs: int = 1


@dataclass(frozen=True)
class EncoderConfig:
    """Pooling, length, prompts and labels.

    pooling: "splade", or keys of POOLING_MODES joined by "+". max_length: tokens, including special
    ones. prompts: texts to put before an input, by name. steps: what follows the pooling, in order:
    modules Dense, LayerNorm and Normalize. labels: in the order of the logits.
    problem_type: config.json's, or the default of transformers' pipeline. activation: turns logits
    into scores; one of the values of ACTIVATIONS. has_token_types: whether the model is given the
    segments of a pair. splade: read for every pooling. pair_prompt: put before a single text and
    the first text of a pair, if a cross encoder's files say so. truncate_dim: default size of a
    vector. max_active_dims: number of words in a sparse vector, those with the greatest weights.
    """

    pooling: str
    max_length: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    steps: tuple[Module, ...] = ()
    labels: tuple[str, ...] = ()
    problem_type: str = "single_label_classification"
    activation: str = "identity"
    has_token_types: bool = True
    splade: SpladeSpec = SpladeSpec()
    pair_prompt: str = ""
    truncate_dim: int | None = None
    max_active_dims: int | None = None

    @classmethod
    def read(
        cls, folder: Path, raw: Mapping[str, Any], settings: Settings, max_positions: int
    ) -> EncoderConfig:
        """Settings take precedence over the files; the default pooling is CLS.

        Raises:
            ConfigError: an unknown pooling, a default prompt that the model does not have, or a
                length beyond ``max_batch_tokens`` although inputs may not be truncated.
            UnsupportedModel: the pooling excludes prompts, and there are some.
        """
        modules = read_modules(folder)
        own = Fields(read_object(folder / _SENTENCE_CONFIG), f"{folder}/{_SENTENCE_CONFIG}")
        prompts, default = _prompts(own, settings)
        if any(prompts.values()) or settings.default_prompt:
            _check_prompt_pooling(folder, modules)
        labels = read_labels(raw)
        default_type = ("single" if len(labels) > 1 else "multi") + "_label_classification"
        problem_type = raw.get("problem_type")
        if problem_type is not None:
            problem_type = Fields(raw).only("problem_type", *PROBLEM_TYPES)
        problem_type = problem_type or default_type
        return cls(
            pooling=pooling_of(folder, raw, settings.pooling)[0],
            max_length=_max_length(folder, settings, max_positions),
            prompts=prompts,
            default_prompt_name=default,
            steps=_steps(modules, settings, raw.get("model_type") in WITH_IMAGES),
            labels=labels,
            problem_type=problem_type,
            activation=_activation(own, folder, raw, labels, problem_type, settings.task),
            has_token_types=has_token_types(folder),
            splade=_splade(folder, modules),
            pair_prompt=_pair_prompt(own.raw),
            truncate_dim=_count(own, "truncate_dim"),
            max_active_dims=_count(own, "max_active_dims"),
        )

    def prompt(self, settings: Settings, name: Any) -> str:
        """The text to put before an input, by a request's ``prompt_name`` or the defaults.

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


def _check_prompt_pooling(folder: Path, modules: Sequence[Module]) -> None:
    """Raises UnsupportedModel: the pooling excludes the tokens of the prompt."""
    for path in (m.path for m in modules if m.kind == "Pooling"):
        if read_object(folder / path / "config.json").get("include_prompt") is False:
            raise UnsupportedModel(
                f"{folder}/{path}: include_prompt is false; pooling without the tokens of the "
                "prompt is not supported"
            )


def _prompts(own: Fields, settings: Settings) -> tuple[dict[str, str], str | None]:
    named = own.inside("prompts").raw
    if not all(isinstance(text, str | None) for text in named.values()):
        raise own.wrong("an object of names and texts", "prompts")
    prompts = {name: text for name, text in named.items() if text is not None}
    if settings.prompts is not None:
        try:
            found = json_text.loads(settings.prompts)
        except ValueError as error:
            raise ConfigError(f"prompts is not valid JSON: {error}") from None
        if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
            raise ConfigError("prompts must be a JSON object of names and texts")
        prompts |= found
    default = settings.default_prompt_name
    if not default and own.has("default_prompt_name"):
        default = own.text("default_prompt_name")
    if default is not None and default not in prompts:
        raise ConfigError(f"default_prompt_name is {default!r}; the model has {sorted(prompts)}")
    return prompts, default


def _count(own: Fields, name: str) -> int | None:
    value = own.raw.get(name)
    if value is not None and (type(value) is not int or value < 1):
        raise ConfigError(f"{own.source}: {name} is {value!r}; expected a number")
    return value


def _pair_prompt(own: Mapping[str, Any]) -> str:
    named = (own.get("prompts") or {}) if own.get("model_type") == "CrossEncoder" else {}
    return str(named.get(own.get("default_prompt_name")) or "")


def _max_length(folder: Path, settings: Settings, max_positions: int) -> int:
    length = min(length_limit(folder) or max_positions, max_positions)
    length = min(length, settings.max_input_tokens or length)
    if length > settings.max_batch_tokens and not settings.auto_truncate:
        raise ConfigError(
            f"max_batch_tokens is {settings.max_batch_tokens}; a text may have {length} tokens "
            "and auto_truncate is false"
        )
    return min(length, settings.max_batch_tokens)


def _splade(folder: Path, modules: Sequence[Module]) -> SpladeSpec:
    """From a SpladePooling module's file; the default is SPLADE v2 (Formal et al. 2021)."""
    path = next((m.path for m in modules if m.kind == "SpladePooling"), None)
    if path is None:
        return SpladeSpec()
    file = folder / path / "config.json"
    fields = Fields(read_object(file), str(file))
    strategy = fields.only("pooling_strategy", "max", "sum")
    activation = fields.only("activation_function", *_SPLADE_LOGS)
    return SpladeSpec(strategy == "sum", _SPLADE_LOGS[activation])


def _steps(modules: Sequence[Module], settings: Settings, is_pooled: bool) -> tuple[Module, ...]:
    """Without a final normalization, which each request turns on or off.

    is_pooled: whether the trunk needs no Pooling module.
    """
    if settings.dense_path is not None:
        return (Module("Dense", settings.dense_path),)
    first = 1 if is_pooled or (modules and modules[0].kind == STATIC) else 2
    after = [m for m in modules[first:] if m.kind != "Dropout"]
    while after and after[-1].kind == "Normalize":
        after.pop()
    return tuple(after)


def _activation(
    own: Fields, folder: Path, raw: Mapping[str, Any], labels: tuple[str, ...], problem_type: str,
    task: str | None,
) -> str:  # fmt: skip
    """The activation in a cross encoder's files, or else that of transformers' pipeline.

    A reranker's single score gets a sigmoid whatever it was trained as, as in ``CrossEncoder``.
    """
    fields = Fields(raw)
    places = (
        (own, "activation_fn"),
        (fields.inside("sentence_transformers"), "activation_fn"),
        (fields, "sbert_ce_default_activation_function"),
    )
    named = next((source.text(key) for source, key in places if source.has(key)), None)
    if named is not None and named.startswith("torch."):
        name = named.rsplit(".", 1)[-1]
        if name not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ConfigError(f"{folder}: activation_fn is {named!r}; known: {known}")
        return ACTIVATIONS[name]
    if named is not None:
        logger.warning("%s: activation_fn %r is not torch's and is left out", folder, named)
    if problem_type == "regression" and (len(labels) > 1 or task == "classify"):
        return "identity"
    is_single = len(labels) == 1 or problem_type == "multi_label_classification"
    return "sigmoid" if is_single else "softmax"
