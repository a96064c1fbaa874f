"""The output of ``atoll infer``: a row for each input text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.errors import ConfigError

if TYPE_CHECKING:
    from atoll_client import Client
    from atoll_client.types import Entity

# How many weights of a sparse vector and numbers of a dense one are shown.
_SHOWN = 8


def of_encoder(
    client: Client, model: str, task: str, texts: list[str], query: str | None
) -> list[dict[str, Any]]:
    """The rows for an encoder; entities are those of ``aggregation_strategy`` simple."""
    if task == "embed":
        vectors = client.embed(texts, model)
        return [{"text": t, "embedding": v.tolist()} for t, v in zip(texts, vectors, strict=True)]
    if task == "sparse":
        found = client.embed_sparse(texts, model)
        return [
            {"text": t, "indices": v.indices.tolist(), "values": v.values.tolist()}
            for t, v in zip(texts, found, strict=True)
        ]
    if task == "multi_vector" and query is None:
        rows = client.embed_tokens(texts, model)
        return [{"text": t, "vectors": v.tolist()} for t, v in zip(texts, rows, strict=True)]
    if task in ("rerank", "multi_vector"):
        ranks = client.rerank(_needed(query, model), texts, model)
        return [{"text": r.text, "index": r.index, "score": r.score} for r in ranks]
    if task == "token_classify":
        entities = client.classify_tokens(texts, model, aggregation_strategy="simple")
        return [
            {"text": t, "entities": [_entity(one) for one in row]}
            for t, row in zip(texts, entities, strict=True)
        ]
    labels = client.classify(texts, model)
    return [
        {"text": t, "labels": {one.label: one.score for one in row}}
        for t, row in zip(texts, labels, strict=True)
    ]


def of_images(client: Client, model: str, images: list[Path]) -> list[dict[str, Any]]:
    """The rows for image files, by a model for texts and images."""
    vectors = client.embed_images(images, model)
    return [
        {"image": str(path), "embedding": v.tolist()}
        for path, v in zip(images, vectors, strict=True)
    ]


def of_sounds(
    client: Client, model: str, sounds: list[Path], temperature: float
) -> list[dict[str, Any]]:
    """The rows for audio files, by a model that transcribes."""
    found = [client.transcribe(path, model, temperature=temperature) for path in sounds]
    return [{"audio": str(path), **asdict(one)} for path, one in zip(sounds, found, strict=True)]


def of_pipeline(
    client: Client, model: str, texts: list[str], query: str | None
) -> list[dict[str, Any]]:
    """The rows for an ensemble, a pipeline or any other model that takes ``text_input``.

    A row for each text if the outputs have one per text, otherwise a row for each output.

    Raises:
        ConfigError: the model takes no texts, or needs a query that was not given.
    """
    shapes = client.input_shapes(model)
    if "text_input" not in shapes:
        raise ConfigError(f"{model} takes {', '.join(shapes)} and no text_input")
    inputs = {"text_input": _shaped(texts, shapes["text_input"])}
    if "query" in shapes:
        inputs["query"] = _shaped([_needed(query, model)], shapes["query"])
    outputs = {name: _plain(value) for name, value in client.infer(model, inputs).items()}
    if {"index", "score"} <= outputs.keys():
        places = zip(outputs["index"], outputs["score"], strict=True)
        return [{"text": texts[i], "index": i, "score": score} for i, score in places]
    if all(len(value) == len(texts) for value in outputs.values()):
        return [
            {"text": text, **{name: value[row] for name, value in outputs.items()}}
            for row, text in enumerate(texts)
        ]
    return [{"text": name, "output": value} for name, value in outputs.items()]


def shown(row: dict[str, Any]) -> str:
    """The answer on one line; long lists are cut."""
    if "audio" in row:
        return str(row["text"])
    if "labels" in row:
        return ", ".join(f"{name} {score:.4f}" for name, score in row["labels"].items())
    if "entities" in row:
        found = (f"{e['word']} ({e['label']} {e['score']:.4f})" for e in row["entities"])
        return ", ".join(found) or "no entities"
    if "score" in row:
        return f"{row['score']:.4f}"
    if "indices" in row:
        pairs = sorted(zip(row["values"], row["indices"], strict=True), reverse=True)[:_SHOWN]
        return ", ".join(f"{index}: {value:.3f}" for value, index in pairs)
    if "vectors" in row:
        return f"{len(row['vectors'])} vectors of {len(row['vectors'][0])} numbers"
    if "embedding" in row:
        first = ", ".join(f"{value:.4f}" for value in row["embedding"][:_SHOWN])
        return f"[{first}, ...] ({len(row['embedding'])} numbers)"
    return ", ".join(str(value) for name, value in row.items() if name != "text")


def _entity(found: Entity) -> dict[str, Any]:
    return {name: value for name, value in asdict(found).items() if value is not None}


def _needed(query: str | None, model: str) -> str:
    if query is None:
        raise ConfigError(f"{model} compares texts with a query: --query says which")
    return query


def _shaped(texts: list[str], shape: list[int]) -> list[Any]:
    """Texts as a column if the model takes one per row, otherwise as a row."""
    return [[text] for text in texts] if len(shape) > 1 else texts


def _plain(value: Any) -> list[Any]:
    return list(value.tolist() if hasattr(value, "tolist") else value)
