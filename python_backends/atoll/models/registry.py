"""Which file implements which architecture name, and how a checkpoint becomes a model.

A variant that only its config tells apart is another name here, never a copied file.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from atoll.errors import ConfigError, UnsupportedModel
from atoll.models import fallback
from atoll.weights.load import LoadOptions, load_weights
from atoll.weights.quantization import Quantization
from atoll_kernels import ACTIVATIONS

# config.json model_type -> file; checked after ARCHITECTURES.
ENCODERS: Mapping[str, str] = {
    "bert": "bert",
    "camembert": "bert",
    "roberta": "bert",
    "xlm-roberta": "bert",
}
DECODERS: Mapping[str, str] = {
    "bloom": "bloom",
    "falcon": "falcon",
    "gpt_bigcode": "gpt_bigcode",
    "gpt_neox": "gpt_neox",
    "llama": "llama",
    "mistral": "llama",
    "mixformer-sequential": "phi",
    "mixtral": "mixtral",
    "mpt": "mpt",
    "mt5": "t5",
    "opt": "opt",
    "phi": "phi",
    "phi-msft": "phi",
    "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon",
    "t5": "t5",
}
# config.json architectures[0] -> file, for repositories whose model_type says something else.
ARCHITECTURES: Mapping[str, str] = {"GPT2LMHeadCustomModel": "gpt_bigcode"}
# A (key, value) of config.json -> file, for families that share another one's model_type.
VARIANTS: Mapping[tuple[str, str], str] = {("position_embedding_type", "alibi"): "jina_bert"}
# What transformers' config class of a model_type assumes, where that is not what its file assumes.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "mistral": {
        "num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072
    },
    "mixtral": {"num_key_value_heads": 8, "max_position_embeddings": 131072},
    "mt5": {"feed_forward_proj": "gated-gelu"},
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder and its config.json, its model_type's defaults in place, without nulls.

    A null says "no" where there is a default (Mistral's window), and nothing where there is none.
    """

    folder: Path
    raw: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Raises ConfigError: config.json is missing or is not an object."""
        raw = _object(folder / "config.json")
        raw = {**DEFAULTS.get(str(raw.get("model_type")), {}), **raw}
        path = folder / "generation_config.json"
        # Where newer repositories say it, and transformers looks first.
        start = _object(path).get("decoder_start_token_id") if path.exists() else None
        if start is not None:
            raw["decoder_start_token_id"] = start
        return cls(folder, {key: value for key, value in raw.items() if value is not None})


def architecture(raw: Mapping[str, Any], table: Mapping[str, str]) -> ModuleType:
    """The file for a config.json.

    Raises:
        UnsupportedModel: no file; names the class, the model type and what is known.
    """
    kind = str(raw.get("model_type"))
    if not is_known(raw, table):
        name = _class_name(raw)
        shown = f"{name} (model_type {kind!r})" if name else f"model_type {kind!r}"
        raise UnsupportedModel(f"{shown} is not supported; known: {sorted(table)}")
    variant = next((f for (key, value), f in VARIANTS.items() if raw.get(key) == value), None)
    file = ARCHITECTURES.get(_class_name(raw)) or variant or table[kind]
    return importlib.import_module(f"atoll.models.{file}")


def is_known(raw: Mapping[str, Any], table: Mapping[str, str]) -> bool:
    """Whether ``architecture`` has a file for a config.json."""
    is_decoder = table is DECODERS and _class_name(raw) in ARCHITECTURES
    return is_decoder or str(raw.get("model_type")) in table


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected an object")
    return found


def _class_name(raw: Mapping[str, Any]) -> str:
    return str(next(iter(raw.get("architectures") or ()), ""))


def build(module: ModuleType, raw: Mapping[str, Any]) -> nn.Module:
    """The model on the meta device: shapes without storage.

    Raises:
        ConfigError: a field is missing, or has a value that is not supported.
    """
    try:
        config = module.Config.from_hf(raw)
    except KeyError as error:
        raise ConfigError(f"config.json has no {error}") from error
    activation = getattr(config, "activation", None)
    if activation is not None and activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ConfigError(f"config.json: activation {activation!r} is not known; known: {known}")
    with torch.device("meta"):
        model: nn.Module = module.Model(config)
    return model


def load_decoder(checkpoint: Checkpoint, options: LoadOptions) -> nn.Module:
    """A generator with its weights; see ``layers.attention.PagedBatch`` for its input.

    What has no file here is left to transformers.
    """
    if not is_known(checkpoint.raw, DECODERS):
        return fallback.load(checkpoint.folder, options)
    return _load(checkpoint, DECODERS, options)


def load_encoder(checkpoint: Checkpoint, options: LoadOptions) -> nn.Module:
    """An encoder's trunk with its weights; see ``layers.attention.PackedBatch`` for its input."""
    return _load(checkpoint, ENCODERS, options)


def _load(checkpoint: Checkpoint, table: Mapping[str, str], options: LoadOptions) -> nn.Module:
    module = architecture(checkpoint.raw, table)
    refused = getattr(module.Model, "unsupported_dtypes", ())
    if options.dtype in refused:
        raise ConfigError(f"{checkpoint.folder}: {options.dtype} would overflow; use bfloat16")
    model = build(module, checkpoint.raw)
    quantization = Quantization.read(checkpoint.folder, checkpoint.raw)
    found = None if quantization is None else quantization.method
    if options.expected_method not in (None, found):
        raise ConfigError(
            f"quantize is {options.expected_method!r}; {checkpoint.folder} is "
            + (f"quantised with {found}" if found else "not quantised")
        )
    options = replace(options, quantization=quantization)
    load_weights(model, module.WEIGHTS, checkpoint.folder, options)
    return model.eval()
