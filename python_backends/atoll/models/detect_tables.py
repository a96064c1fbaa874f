"""Checkpoints that are no architecture: tables of words, and routes for queries and documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from atoll.errors import ConfigError, UnsupportedModel
from atoll.models.config_facts import embedding_size
from atoll.models.detected import Detected
from atoll.weights.modules import (
    SPARSE_STATIC,
    check_modules,
    read_modules,
    read_object,
    transformer_folder,
)
from atoll.weights.router_files import Routes
from atoll.weights.sentence_keys import check_keys
from atoll.weights.static_files import RUNS_ON, STATIC_TYPES, StaticFiles, static_files

# What ``Detected.architecture`` says of them.
NOT_TRUNKS = ("Router", "StaticEmbedding", SPARSE_STATIC)

_UNKNOWN_WIDTH = "the width of the vectors is that of the table, which is not here"


def read_table(
    folder: Path, task: str | None, dense_path: str | None, pooling: str | None
) -> Detected | None:
    """A table of words, dense or sparse; None: the folder is none.

    Raises:
        ConfigError, UnsupportedModel: it is none that can be served so.
    """
    static = static_files(folder)
    if static is not None:
        return _vectors(folder, static, task, dense_path, pooling)
    if any(module.kind == SPARSE_STATIC for module in read_modules(folder)[:1]):
        return _weights(folder, task)
    return None


def together(folder: Path, routes: Routes, found: Mapping[str, Detected]) -> Detected:
    """What a model is, from what its routes are.

    Raises:
        UnsupportedModel: they are for different tasks, or their vectors have different sizes.
    """
    if any(one.takes_images for one in found.values()):
        raise UnsupportedModel(f"{folder}: a route to a model for images is not supported")
    for name, facts in (
        ("task", {route: one.task for route, one in found.items()}),
        ("size of vectors", {route: one.embedding_size for route, one in found.items()}),
    ):
        if len(set(facts.values())) > 1 and not (name != "task" and _is_sparse(found)):
            raise UnsupportedModel(f"{folder}: routes differ in {name}: {facts}")
    main = found[routes.main]
    types = ", ".join(
        f"{kind}: {found[route].architecture}" for kind, route in routes.by_type.items()
    )
    notes = dict.fromkeys(note for one in found.values() for note in one.notes)
    heads = dict.fromkeys(head for one in found.values() for head in one.heads)
    pooling = routes.told({route: one.pooling for route, one in found.items()})
    return replace(
        main, architecture=NOT_TRUNKS[0], runs_on=f"routes ({types})", notes=tuple(notes),
        heads=tuple(heads), pooling=pooling,
    )  # fmt: skip


def _is_sparse(found: Mapping[str, Detected]) -> bool:
    return all(one.task == "sparse" for one in found.values())


def _vectors(
    folder: Path, files: StaticFiles, task: str | None, dense_path: str | None, pooling: str | None
) -> Detected:
    """Knows no other task than to embed, and no other pooling."""
    if task not in (None, "embed"):
        raise UnsupportedModel(f"{folder}: {RUNS_ON} embeds texts; it is not for task {task!r}")
    if pooling not in (None, "mean"):
        raise ConfigError(f"pooling is {pooling!r}; {folder} is {RUNS_ON}, whose pooling is mean")
    check_modules(folder, "embed")
    check_keys(folder, "embed")
    # ``atoll info`` fetches no weights.
    width = files.shape[1] if files.has_weights else 0
    config = read_object(files.folder / "config.json")
    return Detected(
        task="embed",
        architecture=NOT_TRUNKS[1],
        model_type=str(config.get("model_type") or STATIC_TYPES[0]),
        hidden_size=width,
        embedding_size=embedding_size(folder, read_modules(folder), dense_path, "mean", width),
        max_tokens=None,
        dtype=None,
        runs_on=RUNS_ON,
        pooling="mean",
        notes=() if width else (_UNKNOWN_WIDTH,),
    )


def _weights(folder: Path, task: str | None) -> Detected:
    """A weight for each word that a text has."""
    if task not in (None, "sparse"):
        raise UnsupportedModel(f"{folder}: a table of weights is not for task {task!r}")
    check_modules(folder, "sparse")
    check_keys(folder, "sparse")
    path = transformer_folder(folder) / "config.json"
    config = read_object(path)
    left = sorted(k for k, v in config.items() if k != "frozen" and v is not None)
    if left:
        raise UnsupportedModel(
            f"{path}: {left[0]} {config[left[0]]!r} is not supported: weights are read from "
            "model.safetensors, where sentence-transformers saves them"
        )
    return Detected(
        task="sparse",
        architecture=SPARSE_STATIC,
        model_type=STATIC_TYPES[0],
        hidden_size=1,
        embedding_size=1,
        max_tokens=None,
        dtype=None,
        runs_on="a table of weights",
    )
