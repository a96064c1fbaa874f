"""Facts of a model's config.json and of the files beside it: sizes, limits, labels, pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atoll.errors import ConfigError
from atoll.models.encoder_families import WITH_IMAGES
from atoll.weights.json_fields import MAX_SIZE, Fields
from atoll.weights.modules import (
    POOLING_MODES,
    Module,
    read_modules,
    read_object,
    read_poolings,
)

# Model types whose position table begins after the padding token's id.
_OFFSET_TYPES = ("roberta", "xlm-roberta", "camembert", "data2vec-text")
# Model types whose padding token is fixed in the code.
_FIXED_OFFSETS = {"mpnet": 2}
# Classes that pool, by config.json's architectures[0] -> how, unless the key ``pooling`` says so.
POOLED_CLASSES = {"Contriever": "mean", "DPRQuestionEncoder": "cls", "DPRContextEncoder": "cls"}
_CONTRIEVER = {"average": "mean", "cls": "cls"}
HIDDEN_SIZE_KEYS = ("hidden_size", "n_embd", "n_embed", "d_model", "dim")
_MAX_TOKENS_KEYS = (
    "n_positions", "max_position_embeddings", "max_seq_len", "seq_length", "model_max_length",
)  # fmt: skip


def pooling_of(folder: Path, config: Mapping[str, Any], pooling: str | None) -> tuple[str, bool]:
    """How an embedder's token vectors become one, and whether that is only guessed.

    Args:
        config: config.json. pooling: the setting.

    Raises:
        ConfigError: the setting, or a file, names one that is not known.
    """
    if config.get("model_type") in WITH_IMAGES:
        # The end of a text, or of what fills it up; images are pooled as their trunk does.
        if pooling not in (None, "last-token"):
            raise ConfigError(
                f"pooling is {pooling!r}; {folder} is a model for texts and images, whose vectors "
                "are pooled as its architecture says"
            )
        return "last-token", False
    if pooling is not None:
        known = (*POOLING_MODES, "splade")
        if pooling not in known:
            raise ConfigError(f"pooling is {pooling!r}; known: {', '.join(known)}")
        return pooling, False
    if any(m.kind == "SpladePooling" for m in read_modules(folder)):
        return "splade", False
    found = "+".join(read_poolings(folder))
    # JinaBERT's own key, for copies without the Pooling module.
    if not found and config.get("emb_pooler") == "mean":
        found = "mean"
    if not found:
        found = _by_class(Fields(config))
    return found or "cls", not found


def _by_class(fields: Fields) -> str:
    """How the class that config.json names pools; empty where it does not."""
    name = next(iter(fields.texts("architectures")), "")
    if name == "Contriever" and fields.has("pooling"):
        return _CONTRIEVER[fields.only("pooling", *_CONTRIEVER)]
    return POOLED_CLASSES.get(name, "")


def pooled_size(config: Mapping[str, Any], hidden: int) -> int:
    """Values of a text's vector before any module: fewer than a token's if DPR projects it."""
    fields = Fields(config)
    is_projected = fields.raw.get("model_type") == "dpr"
    return (fields.count("projection_dim", default=0) if is_projected else 0) or hidden


def embedding_size(
    folder: Path,
    modules: Sequence[Module],
    dense_path: str | None,
    pooling: str | None,
    hidden: int,
) -> int:
    """Values of a vector that a request gets if it names no number.

    out_features of the last Dense module, or the hidden size for each pooling; fewer, if the files
    say so.
    """
    paths = [m.path for m in modules if m.kind == "Dense"]
    if dense_path is not None:
        paths = [dense_path]
    size = hidden if pooling else hidden * max(1, len(read_poolings(folder)))
    if paths:
        file = folder / paths[-1] / "config.json"
        size = Fields(read_object(file), str(file)).size("out_features")
    limit = read_object(folder / "config_sentence_transformers.json").get("truncate_dim")
    return min(size, limit) if isinstance(limit, int) and limit > 0 else size


def max_tokens_of(config: Mapping[str, Any]) -> int | None:
    """Tokens of the longest text by config.json; None where it does not say."""
    positions = first_size(config, _MAX_TOKENS_KEYS)
    return None if positions is None else positions - position_offset(Fields(config))


def position_offset(fields: Fields) -> int:
    """The row of a text's first token in an encoder's table of positions.

    Args:
        fields: of config.json.

    Raises:
        ConfigError: pad_token_id, from which it follows, is no id of the vocabulary.
    """
    model_type = fields.raw.get("model_type")
    if model_type not in _OFFSET_TYPES:
        return _FIXED_OFFSETS.get(str(model_type), 0)
    vocab_size = fields.size("vocab_size", default=MAX_SIZE)
    return fields.token("pad_token_id", vocab_size=vocab_size, default=1) + 1


def first_size(config: Mapping[str, Any], keys: Sequence[str]) -> int | None:
    """The first of ``keys`` with a size; models for text and images keep them one level down.

    Raises:
        ConfigError: one that is no whole number.
    """
    inner = config.get("text_config")
    for source in (config, inner if isinstance(inner, Mapping) else {}):
        fields = Fields(source)
        for key in keys:
            # Some families write -1 for "any".
            if fields.has(key) and fields.count(key, least=-1) > 0:
                return fields.count(key, least=-1)
    return None
