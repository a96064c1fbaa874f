"""Embedders, dense and sparse, as Triton models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from atoll.config import Settings
from atoll.encoders.embedder import Embedded, Embedder, EmbedOptions
from atoll.encoders.encoder import Encoder
from atoll.encoders.sparse_embedder import SparseEmbedder, SparseVector
from atoll.encoders.static_embedder import StaticEmbedder
from atoll.encoders.static_sparse_embedder import StaticSparseEmbedder
from atoll.encoders.two_tower_embedder import TwoTowerEmbedder
from atoll.errors import EmptyInputError, ValidationError
from atoll.models.encoder_families import WITH_IMAGES
from atoll.serving.requests.encoder_request import EncoderRequest, Work
from atoll.serving.tasks.encoder import EncoderModel
from atoll.serving.tasks.image_inputs import IMAGE, ImageInputs, effort_of
from atoll.serving.tasks.served_model import Effort
from atoll.serving.triton import tensors
from atoll.text.text_encoder import Encoded
from atoll.text.tokenizer import Tokenizer
from atoll.text.vocabulary import joined_ids
from atoll.weights.modules import SPARSE_STATIC, read_modules, read_object, transformer_folder
from atoll.weights.static_files import static_files
from atoll.weights.token_heads import COLBERT, SPARSE

# Pads rows of input_ids that are shorter than the longest.
PADDING = -1


# Parameter -> the head that a checkpoint needs for it.
_HEADS = {"return_sparse": SPARSE, "return_colbert_vecs": COLBERT}
# Tokens that are no words, and get no weight.
_NO_WORDS = ("cls_token", "eos_token", "pad_token", "unk_token")


class EmbedModel(EncoderModel):
    """text_input, input_ids or image -> embedding, num_input_tokens, and what else is asked for.

    image for models that take some; token_embedding for texts of every model; weights of words and
    vectors of tokens for bge-m3's, weights of words for gte-multilingual-base's.
    """

    task = "embed"
    parameters = frozenset({
        "normalize", "prompt_name", "input_type", "dimensions", "return_token_embeddings", *_HEADS,
    })  # fmt: skip
    is_batched = True

    def load(self, folder: Path, settings: Settings) -> Embedder:
        """See ``EncoderModel.load``."""
        self.encoder: Embedder = _kind(folder)(folder, settings)
        own = self.tokenizer if folder == self.folder else Tokenizer.load(folder)
        self.images: ImageInputs | None = None
        if isinstance(self.encoder, TwoTowerEmbedder):
            self.images = ImageInputs(self.encoder, own, settings)
        core, special = own.core, own.special_tokens
        ids = (core.token_to_id(special[name]) for name in _NO_WORDS if name in special)
        unused = [index for index in ids if index is not None]
        heads = self.encoder.heads
        heads.unused = np.array(unused, np.int32)
        if heads.joins_texts:
            heads.words = joined_ids(core, self.encoder.vocab_size)
        return self.encoder

    def facts(self) -> dict[str, Any]:
        """See ``EncoderModel.facts``. tasks: those that it can do beside its own, by any route."""
        heads = set.intersection(*(set(one.heads.names) for one in self._encoders.values()))
        images = {} if self.images is None else self.images.facts()
        more = (["sparse"] if SPARSE in heads else []) + (["hybrid"] if heads else [])
        tasks = {"tasks": more} if more else {}
        return {"dimensions": self.encoder.dimensions, **tasks, **images}

    def read(self, request: Any, given: dict[str, Any]) -> Work:
        """See ``EncoderModel.read``."""
        route = self.routed.route(given)
        encoder = self._encoders[route]
        dimensions = given.get("dimensions", encoder.truncate_dim)
        if dimensions is not None:
            dimensions = tensors.as_int("dimensions", dimensions, 1, encoder.dimensions)
        flag = given.get("return_token_embeddings", False)
        options = EmbedOptions(
            normalize=tensors.as_bool("normalize", given.get("normalize", True)),
            dimensions=dimensions,
            return_token_embeddings=tensors.as_bool("return_token_embeddings", flag),
            **{name: _asks_for(name, given, encoder, route) for name in _HEADS},
        )
        images = tensors.blobs(request, IMAGE)
        if images is None:
            return read_texts(self, request, given, options)
        if self.images is None:
            raise ValidationError(f"{IMAGE} is given; the model embeds texts alone")
        self.check_count(IMAGE, len(images), "images")
        return self.images.work(request, given, images, options)

    def effort(self, request: EncoderRequest) -> Effort:
        """See ``ServedModel``; images are never decoded inline."""
        images = request.work.images
        return effort_of(images) if images else super().effort(request)

    def rows(self, work: Work) -> list[Encoded]:
        """See ``EncoderModel.rows``."""
        if self.images is None:
            return super().rows(work)
        return self.images.rows(work) if work.images else self.images.filled(super().rows(work))

    def absent(self, work: Work) -> Mapping[str, str]:
        """See ``EncoderModel.absent``."""
        flags = {
            "token_embedding": "return_token_embeddings", "sparse_indices": "return_sparse",
            "sparse_values": "return_sparse", "colbert_vecs": "return_colbert_vecs",
        }  # fmt: skip
        return {name: flag for name, flag in flags.items() if not getattr(work.options, flag)}

    def answer(self, work: Work, rows: list[Embedded], lengths: list[int]) -> dict[str, Any]:
        """See ``EncoderModel.answer``. token_embedding is padded with zeros."""
        outputs = {"embedding": np.stack([row.vector for row in rows]), **counts(lengths)}
        if work.options.return_token_embeddings:
            width = self.routed.encoders[work.route].hidden_size
            shape = (len(rows), max(lengths), width)
            outputs["token_embedding"] = np.zeros(shape, dtype=np.float32)
            for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                assert row.token_vectors is not None, "they were asked for"
                # Lengths leave out what SigLIP's texts are filled up with.
                outputs["token_embedding"][index, :length] = row.token_vectors[:length]
        if work.options.return_sparse:
            found = [row.sparse for row in rows if row.sparse is not None]
            outputs["sparse_indices"] = padded([one.indices for one in found], PADDING)
            outputs["sparse_values"] = padded([one.values for one in found], 0)
        if work.options.return_colbert_vecs:
            outputs["colbert_vecs"] = padded(
                [row.colbert_vecs for row in rows if row.colbert_vecs is not None], 0
            )
        return outputs

    @property
    def _encoders(self) -> Mapping[str | None, Embedder]:
        return cast(Mapping[str | None, Embedder], self.routed.encoders)


def _kind(folder: Path) -> type[Embedder]:
    if static_files(folder) is not None:
        return StaticEmbedder
    config = read_object(transformer_folder(folder) / "config.json")
    return TwoTowerEmbedder if config.get("model_type") in WITH_IMAGES else Embedder


class SparseModel(EncoderModel):
    """text_input or input_ids -> indices and values of all rows, concatenated, and offsets."""

    task = "sparse"
    parameters = frozenset({"prompt_name", "input_type"})
    is_batched = False

    def load(self, folder: Path, settings: Settings) -> Encoder:
        """See ``EncoderModel.load``."""
        is_table = any(m.kind == SPARSE_STATIC for m in read_modules(folder)[:1])
        kind = StaticSparseEmbedder if is_table else SparseEmbedder
        self.encoder: Encoder = kind(folder, settings)
        return self.encoder

    def facts(self) -> dict[str, Any]:
        """See ``EncoderModel.facts``."""
        return {"dimensions": self.encoder.vocab_size}

    def read(self, request: Any, given: dict[str, Any]) -> Work:
        """See ``EncoderModel.read``."""
        return read_texts(self, request, given, None)

    def answer(self, work: Work, rows: list[SparseVector], lengths: list[int]) -> dict[str, Any]:
        """See ``EncoderModel.answer``: row i is indices[offsets[i] : offsets[i + 1]]."""
        sizes = [len(row.indices) for row in rows]
        return {
            "indices": np.concatenate([row.indices for row in rows]),
            "values": np.concatenate([row.values for row in rows]),
            "offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
            **counts(lengths),
        }


def _asks_for(name: str, given: dict[str, Any], encoder: Embedder, route: str | None) -> bool:
    """Raises ValidationError: the checkpoint, or its part for these texts, has no such head."""
    found = tensors.as_bool(name, given.get(name, False))
    if found and _HEADS[name] not in encoder.heads.names:
        part = "the model" if route is None else f"the model's part for {route!r}"
        raise ValidationError(f"{name} is true; {part} has no {_HEADS[name]}.pt")
    return found


def padded(rows: list[npt.NDArray[Any]], fill: float) -> npt.NDArray[Any]:
    """Arrays that differ in their first size as one, (rows, longest or 1, ...)."""
    shape = (len(rows), max(1, *map(len, rows)), *rows[0].shape[1:])
    found = np.full(shape, fill, rows[0].dtype)
    for index, row in enumerate(rows):
        found[index, : len(row)] = row
    return found


def counts(lengths: list[int]) -> dict[str, Any]:
    """An output of every encoder: the number of tokens of each row, including special ones."""
    return {"num_input_tokens": np.array(lengths, dtype=np.uint32).reshape(-1, 1)}


def read_texts(model: EncoderModel, request: Any, given: dict[str, Any], options: Any) -> Work:
    """Texts with their prompt, or token ids, which already include the prompt.

    Raises:
        ValidationError: neither or both, or one of them is wrong.
    """
    truncate, direction = model.truncation(given)
    route = model.routed.route(given)
    prompt = model.loaded.spec.prompt(model.settings, model.routed.prompt_name(given))
    texts = model.texts(request, "text_input")
    ids = _ids(model, request)
    if (texts is None) == (ids is None):
        raise EmptyInputError("give either text_input or input_ids")
    if ids is not None:
        if model.routed.prompt_name(given) is not None:
            raise ValidationError(
                f"prompt_name is {given['prompt_name']!r}, with input_ids, which are taken as they "
                "are: put the prompt's tokens in front"
            )
        return Work(
            "input_ids", options, ids=ids, truncate=truncate, direction=direction, route=route
        )
    prompted = tuple(prompt + text for text in texts or ())
    return Work(
        "text_input", options, prompted, truncate=truncate, direction=direction, route=route
    )


def _ids(model: EncoderModel, request: Any) -> tuple[list[int], ...] | None:
    found = tensors.array(request, "input_ids", np.int32)
    if found is None:
        return None
    if found.size == 0:
        raise EmptyInputError("input_ids is empty")
    rows = found.reshape(-1, found.shape[-1])
    model.check_count("input_ids", len(rows))
    ids = []
    for index, row in enumerate(rows):
        places = np.flatnonzero(row != PADDING)
        if not len(places):
            raise EmptyInputError(f"input_ids[{index}] is empty")
        # Only padding at the end is removed; elsewhere -1 is an invalid id.
        ids.append(row[: places[-1] + 1].tolist())
    return tuple(ids)
