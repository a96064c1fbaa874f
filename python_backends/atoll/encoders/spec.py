"""What a checkpoint's JSON files say about turning tokens into vectors and scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.config import Settings
from atoll.errors import ConfigError, ValidationError

# Keys of 1_Pooling/config.json, in TEI's order.
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last-token",
}
POOLINGS = (*_MODES.values(), "splade")


@dataclass(frozen=True)
class EncoderSpec:
    """Pooling, length, prompts and labels.

    pooling: one of POOLINGS. max_length: tokens, special ones included. prompts: text put before
    an input, by name. dense: folders of Dense modules, in order. labels: in the order of the
    logits. problem_type: config.json's, or what transformers' pipeline assumes without one.
    """

    pooling: str
    max_length: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    dense: tuple[Path, ...] = ()
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
        own = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
        transformers = read_json(folder / "config_sentence_transformers.json")
        prompts = {**(transformers.get("prompts") or {}), **_prompts(settings)}
        default = settings.default_prompt_name or transformers.get("default_prompt_name")
        if default is not None and default not in prompts:
            raise ConfigError(
                f"default_prompt_name is {default!r}; the model has {sorted(prompts)}"
            )
        length = min(
            own or max_positions, max_positions, settings.max_input_tokens or max_positions
        )
        if length > settings.max_batch_tokens and not settings.auto_truncate:
            raise ConfigError(
                f"max_batch_tokens is {settings.max_batch_tokens}; a text may have {length} tokens "
                "and auto_truncate is false"
            )
        labels = _labels(raw)
        return cls(
            pooling=_pooling(folder, settings),
            max_length=min(length, settings.max_batch_tokens),
            prompts=prompts,
            default_prompt_name=default,
            dense=_dense(folder, settings),
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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file.

    Raises:
        ConfigError: it is no object.
    """
    found = _parse(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected an object")
    return found


def _prompts(settings: Settings) -> dict[str, str]:
    if settings.prompts is None:
        return {}
    try:
        found = json.loads(settings.prompts)
    except ValueError as error:
        raise ConfigError(f"prompts is not valid JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ConfigError("prompts must be a JSON object of names and texts")
    return found


def _pooling(folder: Path, settings: Settings) -> str:
    modules = _modules(folder)
    if settings.pooling is not None:
        if settings.pooling not in POOLINGS:
            raise ConfigError(f"pooling is {settings.pooling!r}; known: {', '.join(POOLINGS)}")
        return settings.pooling
    if any("Splade" in str(m.get("type")) for m in modules):
        return "splade"
    paths = [str(m.get("path")) for m in modules if str(m.get("type")).endswith("Pooling")]
    file = folder / (paths[0] if paths else "1_Pooling") / "config.json"
    modes = read_json(file)
    if not modes:
        return "cls"
    # Newer files name the mode; older ones have one flag for each.
    named = modes.get("pooling_mode")
    found = [name for key, name in _MODES.items() if modes.get(key)]
    if named is not None:
        found = [{"lasttoken": "last-token"}.get(str(named), str(named))]
    if not found or found[0] not in POOLINGS:
        raise ConfigError(f"{file}: the pooling is none of {', '.join(POOLINGS)}")
    return found[0]


def _dense(folder: Path, settings: Settings) -> tuple[Path, ...]:
    if settings.dense_path is not None:
        return (folder / settings.dense_path,)
    modules = [m for m in _modules(folder) if str(m.get("type")).endswith(".Dense")]
    return tuple(folder / str(m["path"]) for m in modules)


def _labels(raw: Mapping[str, Any]) -> tuple[str, ...]:
    names = raw.get("id2label")
    if isinstance(names, Mapping) and names:
        return tuple(str(names[key]) for key in sorted(names, key=int))
    return tuple(f"LABEL_{index}" for index in range(int(raw.get("num_labels", 2))))


def _modules(folder: Path) -> list[Mapping[str, Any]]:
    path = folder / "modules.json"
    found = _parse(path) if path.exists() else []
    if not isinstance(found, list):
        raise ConfigError(f"{path}: expected a list")
    return [module for module in found if isinstance(module, dict)]


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
