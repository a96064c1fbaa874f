"""How a checkpoint becomes a model, by the file that its family has."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn

from atoll.errors import ConfigError, UnsupportedModel, WeightError
from atoll.layers.linear import Head, HeadRows
from atoll.layers.parallel import ONE_RANK, Shard, building, sketching
from atoll.models import fallback, fallback_encoder, nested
from atoll.models.families import CAUSAL, CLASSES, DECODERS, DEFAULTS, ENCODERS, VARIANTS
from atoll.weights.json_fields import MAX_SIZE, ConfigKeys, Fields, read_labels, stored_dtype
from atoll.weights.layer_tensors import Mismatch
from atoll.weights.load import LoadOptions, load_weights
from atoll.weights.modules import read_object
from atoll.weights.quantization import Quantization

_START = "decoder_start_token_id"
# More GPUs than one model is divided over anywhere.
_MOST_RANKS = 64


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder and its config.json, its model_type's defaults in place."""

    folder: Path
    raw: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Raises ConfigError: config.json is missing or no object, or a key is of another type."""
        path = folder / "config.json"
        if not path.exists():
            raise ConfigError(f"{path}: cannot be read: there is no such file")
        own = Fields(nested.text_model(read_object(path), str(path)), str(path))
        own.texts("architectures")
        kind = own.text("model_type", default="", nullable=True)
        raw = {**DEFAULTS.get(kind, {}), **own.raw}
        size = raw.get("vocab_size")
        vocab_size = size if type(size) is int and size > 0 else MAX_SIZE
        path = folder / "generation_config.json"
        # Where newer repositories say it, and transformers looks first.
        for source in (own, Fields(read_object(path), str(path))):
            if source.has(_START):
                raw[_START] = source.token(_START, vocab_size=vocab_size)
        return cls(folder, raw)


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
    variants = VARIANTS if table is ENCODERS else {}
    variant = next((f for (key, value), f in variants.items() if raw.get(key) == value), None)
    file = CLASSES.get(_class_name(raw)) or variant or table[kind]
    return importlib.import_module(f"atoll.models.{file}")


def is_known(raw: Mapping[str, Any], table: Mapping[str, str]) -> bool:
    """Whether ``architecture`` has a file for a config.json."""
    is_decoder = table is DECODERS and _class_name(raw) in CLASSES
    return is_decoder or str(raw.get("model_type")) in table


def _class_name(raw: Mapping[str, Any]) -> str:
    return next(iter(Fields(raw).texts("architectures")), "")


def build(module: ModuleType, raw: Mapping[str, Any], shard: Shard = ONE_RANK) -> nn.Module:
    """The model on the meta device, or a rank's part of it: shapes without storage.

    Raises:
        ConfigError: a field is missing, or has a value that is not supported; names it. Or the
            model cannot be divided over so many ranks; says over how many it can.
    """
    config = module.Config.from_hf(raw)
    try:
        return build_part(module, config, shard)
    except ConfigError as error:
        if not shard.is_split:
            raise
        fitting = ", ".join(map(str, shard_sizes(module, config)))
        raise ConfigError(f"{error}; sizes that fit this model: {fitting}") from error


def sketch(module: ModuleType, raw: Mapping[str, Any]) -> nn.Module:
    """As ``build``, with one expert for all of a layer."""
    with sketching():
        return build(module, raw)


def shard_sizes(module: ModuleType, config: Any) -> list[int]:
    """Over how many ranks a model can be divided, by what its layers say; 1 always is among them.

    config: a ``Config`` of the module.
    """
    with sketching():
        return [size for size in range(1, _MOST_RANKS + 1) if _divides(module, config, size)]


def _divides(module: ModuleType, config: Any, size: int) -> bool:
    try:
        build_part(module, config, Shard(0, size))
    except ConfigError:
        return False
    return True


def build_part(module: ModuleType, config: Any, shard: Shard) -> nn.Module:
    """As ``build``, from a ``Config`` of the module; errors do not say which sizes fit."""
    with torch.device("meta"), building(shard):
        model: nn.Module = module.Model(config)
    return model


def load_decoder(checkpoint: Checkpoint, options: LoadOptions) -> nn.Module:
    """A generator with its weights; see ``layers.batch.Batch`` for its input.

    What has no file here is left to transformers.
    """
    if not is_known(checkpoint.raw, DECODERS):
        if options.shard.is_split:
            raise _one_rank_only(options.shard, checkpoint, "transformers runs this architecture")
        return fallback.load(checkpoint.folder, options)
    return _load(checkpoint, DECODERS, options)


def load_encoder(
    checkpoint: Checkpoint,
    options: LoadOptions,
    task: str = "embed",
    scored_words: Sequence[int] = (),
) -> nn.Module:
    """An encoder's trunk with its weights; see ``layers.batch.Batch`` for its input.

    A decoder may be one, too: its hidden states, without the head that scores words; with
    ``scored_words``, ids, its ``logits`` are the scores of these alone. What has no file here is
    left to transformers, together with the task's head.
    """
    if options.shard.is_split:
        raise _one_rank_only(options.shard, checkpoint, "it is an encoder")
    table = table_of(checkpoint.raw, task)
    if not is_known(checkpoint.raw, table):
        return fallback_encoder.load(checkpoint.folder, options, task)
    return _load(checkpoint, table, options, scored_words)


def table_of(raw: Mapping[str, Any], task: str) -> Mapping[str, str]:
    """Which table has the file of a checkpoint; a decoder's hidden states serve all tasks."""
    is_generator = task in ("generate", "transcribe")
    return DECODERS if is_generator or str(raw.get("model_type")) in CAUSAL else ENCODERS


def _one_rank_only(shard: Shard, checkpoint: Checkpoint, reason: str) -> ConfigError:
    return ConfigError(
        f"num_shard is {shard.size}; {checkpoint.folder} cannot be divided: {reason}; serve it "
        "with num_shard 1"
    )


class Plan(NamedTuple):
    """A model without its weights, and how they are held in the files.

    keys: config.json's, which remember what was read of them.
    """

    module: ModuleType
    model: nn.Module
    quantization: Quantization | None
    keys: ConfigKeys


def plan(
    checkpoint: Checkpoint,
    table: Mapping[str, str],
    dtype: torch.dtype | None = None,
    expected_method: str | None = None,
    shard: Shard = ONE_RANK,
    has_head: bool = True,
    scored_words: Sequence[int] = (),
) -> Plan:
    """All that decides, before any weight is read, whether a checkpoint can be loaded.

    Args:
        dtype: of the activations, if it is known. expected_method, shard: see ``LoadOptions``.
        has_head: whether a decoder scores all words; otherwise, its hidden states are used.
        scored_words: words that it scores without one.

    Raises:
        ConfigError, UnsupportedModel: it cannot; names what is in the way.
    """
    module = architecture(checkpoint.raw, table)
    if dtype in getattr(module.Model, "unsupported_dtypes", ()):
        raise ConfigError(f"{checkpoint.folder}: {dtype} would overflow; use bfloat16 or float32")
    stored_dtype(Fields(checkpoint.raw))
    if table is ENCODERS:
        read_labels(checkpoint.raw)
    keys = ConfigKeys(checkpoint.raw)
    model: Any = build(module, keys, shard)
    if str(checkpoint.raw.get("model_type")) in CAUSAL:
        _check_directions(checkpoint, bool(model.config.is_causal), has_head)
    if table is DECODERS and not has_head:
        _keep_words(model, scored_words)
    quantization = Quantization.read(checkpoint.folder, checkpoint.raw)
    found = None if quantization is None else quantization.method
    if expected_method not in (None, found):
        raise ConfigError(
            f"quantize is {expected_method!r}; {checkpoint.folder} is "
            + (f"quantised with {found}" if found else "not quantised")
        )
    return Plan(module, model, quantization, keys)


def _check_directions(checkpoint: Checkpoint, is_causal: bool, has_head: bool) -> None:
    """That a decoder's tokens see what the file says, and, of one that writes, none that follow.

    is_causal: whether those of the model see only what comes before.

    Raises:
        ConfigError: they do not; names the key and the model_type.
    """
    kind = checkpoint.raw.get("model_type")
    if is_causal and not Fields(checkpoint.raw).flag("is_causal", default=True):
        raise ConfigError(
            f"{checkpoint.folder}: is_causal is false, which is not supported for model_type "
            f"{kind!r}"
        )
    if has_head and not is_causal:
        raise ConfigError(
            f"{checkpoint.folder}: the tokens of this {kind} see those that follow, by is_causal, "
            "use_bidirectional_attention or its model_type: it is an embedder, and cannot "
            "generate; --task embed serves it"
        )


def _load(
    checkpoint: Checkpoint,
    table: Mapping[str, str],
    options: LoadOptions,
    scored_words: Sequence[int] | None = None,
) -> nn.Module:
    """scored_words: the words that a decoder scores; None: all of them."""
    found = plan(
        checkpoint, table, options.dtype, options.expected_method, options.shard,
        has_head=scored_words is None, scored_words=scored_words or (),
    )  # fmt: skip
    options = replace(options, quantization=found.quantization)
    try:
        load_weights(found.model, found.module.WEIGHTS, checkpoint.folder, options)
    except Mismatch as error:
        raise WeightError(f"{error}; {found.keys.summary()}") from error
    return found.model.eval()


def _keep_words(model: Any, words: Sequence[int]) -> None:
    """Replaces the head of a decoder on the meta device by the rows of some words, or of none."""
    head: Head = model.lm_head
    del model.lm_head
    if words:
        with torch.device("meta"):
            size = head.outputs.total
            model.lm_head = HeadRows(head.in_features, size, words, head.bias is not None)
