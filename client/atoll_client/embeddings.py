"""Builds the requests and reads the answers of embedders, for the clients and the gateway.

Dense, sparse, or a vector for each token.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from atoll_client import kserve
from atoll_client.errors import UnsupportedModel, ValidationError
from atoll_client.kserve import Message, Parameters
from atoll_client.types import Embeddings, Floats, HybridEmbeddings, ModelInfo, SparseVector

# Texts, or the token ids of each.
Items = Sequence[str] | Sequence[Sequence[int]]
# Of images in a request; the gateway takes 64 MB.
_MAX_IMAGES, _MAX_BYTES = 32, 60_000_000
# The bytes of an image's file, a data URI, or a file of this machine.
Image = bytes | str | os.PathLike[str]


def embed(model: str, items: Items, parameters: Parameters) -> Message:
    """Texts, or the token ids of each, to vectors, dense or sparse.

    parameters: as in the model's documentation.
    """
    message = kserve.request(model, parameters, kserve.unique())
    if items and not isinstance(items[0], str):
        kserve.add_array(message, "input_ids", _filled_up(cast(Sequence[Sequence[int]], items)))
    else:
        texts = cast(Sequence[str], items)
        kserve.add_texts(message, "text_input", texts, [len(texts), 1])
    return message


def embed_images(model: str, images: Sequence[str | bytes], parameters: Parameters) -> Message:
    """Encoded images, or data URIs of some, to vectors."""
    message = kserve.request(model, parameters, kserve.unique())
    kserve.add_texts(message, "image", images, [len(images), 1])
    return message


def images_per_request(model: ModelInfo, images: Sequence[str | bytes]) -> int:
    """Into how large parts a list of images is split: an image may have megabytes."""
    largest = max(map(len, images), default=0)
    most = _MAX_BYTES // max(1, largest)
    return max(1, min(model.max_client_batch_size, _MAX_IMAGES, most))


def takes_images(model: ModelInfo) -> bool:
    """Whether an embedder embeds images besides texts."""
    return "image" in (model.facts.get("modalities") or ())


def images_of(images: Image | Sequence[Image], model: ModelInfo) -> list[str | bytes]:
    """The images that a call is given; a path is read here.

    Raises:
        UnsupportedModel: the model embeds texts alone.
        ValidationError: it is none of these, or a text is no data URI: the server fetches and
            opens nothing.
    """
    if not takes_images(model):
        raise UnsupportedModel(f"model {model.name!r} embeds texts alone, no images")
    many = [images] if isinstance(images, (bytes, str, os.PathLike)) else list(images)
    for one in many:
        is_uri = isinstance(one, str) and one[:5].lower() == "data:"
        if not is_uri and not isinstance(one, (bytes, os.PathLike)):
            raise ValidationError(
                f"an image is {one!r:.80}; expected bytes, a pathlib.Path, or a data URI"
            )
    return [Path(one).read_bytes() if isinstance(one, os.PathLike) else one for one in many]


def sparse(model: ModelInfo, items: Items, parameters: Parameters) -> Message:
    """Texts to sparse vectors, by a model for them or by an embedder that has them besides."""
    if model.task == "sparse":
        return embed(model.name, items, parameters)
    message = embed(model.name, items, {**parameters, "return_sparse": True})
    for name in ("sparse_indices", "sparse_values", "num_input_tokens"):
        message.outputs.add(name=name)
    return message


def sparse_reader(model: ModelInfo) -> Callable[[Message], tuple[list[SparseVector], Any]]:
    """Reads the answer to ``sparse``, with the counts of input tokens."""
    if model.task == "sparse":
        return read_sparse

    def read(response: Message) -> tuple[list[SparseVector], Any]:
        found = kserve.outputs(response)
        return _sparse_rows(found), found["num_input_tokens"].reshape(-1)

    return read


def read_hybrid(response: Message) -> HybridEmbeddings:
    """The answer of bge-m3 to ``return_sparse`` and ``return_colbert_vecs``."""
    found = kserve.outputs(response)
    vectors = None
    if "colbert_vecs" in found:
        # The first token stands for the whole text.
        counts = (found["num_input_tokens"].reshape(-1).astype(int) - 1).tolist()
        vectors = [row[:n] for row, n in zip(found["colbert_vecs"], counts, strict=True)]
    sparse = _sparse_rows(found) if "sparse_indices" in found else None
    return HybridEmbeddings(found["embedding"], sparse, vectors)


def joined(parts: Sequence[HybridEmbeddings], nothing: HybridEmbeddings) -> HybridEmbeddings:
    """All parts as one; ``nothing`` if there are none."""
    if not parts:
        return nothing
    return HybridEmbeddings(
        np.concatenate([part.vectors for part in parts]),
        None if nothing.sparse is None else [v for part in parts for v in part.sparse or ()],
        None
        if nothing.colbert_vecs is None
        else [v for part in parts for v in part.colbert_vecs or ()],
    )


def _sparse_rows(found: Mapping[str, Any]) -> list[SparseVector]:
    """Rows that are padded with the index -1."""
    pairs = zip(found["sparse_indices"], found["sparse_values"], strict=True)
    return [SparseVector(indices[indices >= 0], values[indices >= 0]) for indices, values in pairs]


def read_embeddings(response: Message) -> Embeddings:
    """The answer of an embedder."""
    found = kserve.outputs(response)
    return Embeddings(found["embedding"], found["num_input_tokens"].reshape(-1))


def read_token_vectors(response: Message) -> tuple[list[Floats], Any]:
    """A vector for each token of each text, and token counts.

    The request had ``return_token_embeddings``.
    """
    found = kserve.outputs(response)
    counts = found["num_input_tokens"].reshape(-1)
    rows = zip(found["token_embedding"], counts.tolist(), strict=True)
    return [vectors[:count] for vectors, count in rows], counts


def read_sparse(response: Message) -> tuple[list[SparseVector], Any]:
    """The answer of a sparse embedder, with the counts of input tokens.

    ``indices`` and ``values`` have all rows concatenated; ``offsets`` has one element more than
    there are rows.
    """
    found = kserve.outputs(response)
    indices, values = found["indices"].reshape(-1), found["values"].reshape(-1)
    bounds = found["offsets"].reshape(-1)
    rows = [
        SparseVector(indices[start:stop], values[start:stop])
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
    ]
    return rows, found["num_input_tokens"].reshape(-1)


def read_vectors(response: Message) -> tuple[list[Floats], Any]:
    """The answer of a late-interaction model: (tokens, width) of each text, and token counts."""
    found = kserve.outputs(response)
    bounds = found["offsets"].reshape(-1)
    rows = [
        found["vectors"][start:stop] for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
    ]
    return rows, found["num_input_tokens"].reshape(-1)


def stacked(model: ModelInfo, found: Sequence[Embeddings], dimensions: int | None) -> Floats:
    """The vectors of all parts, (texts, width); the width is also known without any texts."""
    width = int(dimensions or model.facts.get("dimensions") or 0)
    nothing = np.empty((0, width), np.float32)
    return np.concatenate([part.vectors for part in found]) if found else nothing


def cosine(vectors: Floats) -> Floats:
    """Similarity of the first row with each of the others."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    scores: Floats = unit[1:] @ unit[0]
    return scores


def _filled_up(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    """Rows of ids as one tensor, padded with -1."""
    found = np.full((len(rows), max(map(len, rows))), -1, np.int32)
    for index, row in enumerate(rows):
        found[index, : len(row)] = row
    return found
