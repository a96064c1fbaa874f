"""Late-interaction models (ColBERT) as Triton models: vectors of tokens, and scores for a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atoll.config import Settings
from atoll.encoders.marked_texts import marked_encoders
from atoll.encoders.multi_vector_encoder import (
    MultiVectorEncoder,
    Query,
    TokenOptions,
    TokenVectors,
)
from atoll.errors import EmptyInputError, ValidationError
from atoll.serving.requests.encoder_request import EncoderRequest, Work
from atoll.serving.tasks.embed import counts
from atoll.serving.tasks.encoder import EncoderModel
from atoll.text.marked_text import Marked

_SIDES = ("query", "document")


@dataclass(frozen=True)
class Sides:
    """What the texts of a request are. num_queries: how many of the first are queries.

    has_vectors: whether the vectors themselves are asked for, which are large.
    """

    num_queries: int
    has_scores: bool
    has_vectors: bool


class MultiVectorModel(EncoderModel):
    """text_input -> vectors of all texts, concatenated, and offsets; with query, scores too."""

    task = "multi_vector"
    parameters = frozenset({"input_type"})
    is_batched = False

    def load(self, folder: Path, settings: Settings) -> MultiVectorEncoder:
        """See ``EncoderModel.load``."""
        self.encoder = MultiVectorEncoder(folder, settings)
        tokenizer = self.tokenizer
        self.sides = marked_encoders(tokenizer.core, tokenizer.special_tokens, self.encoder)
        return self.encoder

    def facts(self) -> dict[str, Any]:
        """See ``EncoderModel.facts``."""
        late = self.encoder.late
        return {
            "dimensions": self.encoder.dimensions,
            "pooling": None,
            "prompts": {"query": late.query_prompt, "document": late.document_prompt},
            "input_types": list(_SIDES),
            "max_input_tokens": self.encoder.document_length,
            "max_query_tokens": self.encoder.query_length,
            "activation": "identity",
        }

    def read(self, request: Any, given: dict[str, Any]) -> Work:
        """See ``EncoderModel.read``. Queries come before the other texts."""
        truncate, direction = self.truncation(given)
        input_type = given.get("input_type", "document")
        if input_type not in _SIDES:
            raise ValidationError(f"input_type is {input_type!r}; expected query or document")
        queries = self.texts(request, "query")
        # As a reranker's: lists of passages sometimes have an empty one.
        texts = self.texts(request, "text_input", may_be_empty=queries is not None)
        if texts is None:
            raise EmptyInputError("text_input is missing")
        has_vectors = "vectors" in request.requested_output_names()
        if queries is None:
            sides = Sides(len(texts) if input_type == "query" else 0, False, has_vectors)
            return Work("text_input", sides, tuple(texts), truncate=truncate, direction=direction)
        if input_type == "query":
            raise ValidationError(
                "input_type is 'query', with a query to score: text_input holds documents then"
            )
        if len(queries) not in (1, len(texts)):
            raise ValidationError(
                f"query has {len(queries)} texts and text_input {len(texts)}; "
                "expected one query, or one for each text"
            )
        sides = Sides(len(queries), True, has_vectors)
        both = (*queries, *texts)
        return Work("text_input", sides, both, truncate=truncate, direction=direction)

    def prepare(self, request: EncoderRequest) -> None:
        """See ``ServedModel``."""
        work, count = request.work, request.work.options.num_queries
        rows: list[Marked] = []
        name = "query" if work.options.has_scores else "text_input"
        for side, texts, named in (
            ("query", work.texts[:count], name),
            ("document", work.texts[count:], "text_input"),
        ):
            if texts:
                rows += self.sides[side].encode(
                    [str(text) for text in texts],
                    name=named, truncate=work.truncate, direction=work.direction,
                )  # fmt: skip
        items = request.items([row.encoded for row in rows])
        queries = [Query() for _ in range(count)] if work.options.has_scores else []
        for index, (item, row) in enumerate(zip(items, rows, strict=True)):
            is_query = index < len(queries)
            # One query is for all texts, several are for one text each.
            query = queries[index % count] if len(queries) > 1 else next(iter(queries), None)
            item.options = TokenOptions(row.kept, query, is_query)
            item.num_attended = row.num_attended
        self.engine.submit(items)

    def absent(self, work: Work) -> Mapping[str, str]:
        """See ``EncoderModel.absent``."""
        return {} if work.options.has_scores else {"score": "a query"}

    def answer(self, work: Work, rows: list[TokenVectors], lengths: list[int]) -> dict[str, Any]:
        """See ``EncoderModel.answer``: text i has vectors[offsets[i] : offsets[i + 1]]."""
        sides: Sides = work.options
        first = sides.num_queries if sides.has_scores else 0
        texts = rows[first:]
        offsets = np.concatenate([[0], np.cumsum([len(row.vectors) for row in texts])])
        outputs = {"offsets": offsets.astype(np.int32), **counts(lengths[first:])}
        if sides.has_vectors:
            outputs["vectors"] = np.concatenate([row.vectors for row in texts])
        if sides.has_scores:
            scores = np.array([row.score for row in texts], np.float32)
            outputs["score"] = scores.reshape(-1, 1)
        return outputs
