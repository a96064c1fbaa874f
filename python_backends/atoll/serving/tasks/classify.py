"""Rerankers and classifiers as Triton models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from atoll.config import Settings
from atoll.encoders.classifier import Classifier, Scored, ScoreOptions, Scorer
from atoll.encoders.decoder_reranker import DecoderReranker
from atoll.encoders.encoder import Encoder
from atoll.errors import ConfigError, EmptyInputError, UnsupportedModel, ValidationError
from atoll.models import rerankers
from atoll.serving.requests.encoder_request import Work
from atoll.serving.tasks.embed import counts
from atoll.serving.tasks.encoder import EncoderModel
from atoll.serving.triton import tensors
from atoll.text.pair_encoder import with_prefixes
from atoll.text.text_encoder import Encoded
from atoll.weights.modules import read_object, transformer_folder


class ClassifyModel(EncoderModel):
    """text_input, and text_pair for pairs -> score and logit (rows, labels), by label.

    In float32 the sigmoid is 1 from a logit of 17 on: sort by logits, not by scores.
    """

    task = "classify"
    parameters = frozenset({"raw_scores"})
    is_batched = False

    def load(self, folder: Path, settings: Settings) -> Scorer:
        """See ``EncoderModel.load``."""
        self.encoder: Scorer = Classifier(folder, replace(settings, task=self.task))
        self.prompt = self.encoder.spec.pair_prompt
        return self.encoder

    def facts(self) -> dict[str, Any]:
        """See ``EncoderModel.facts``."""
        spec = self.encoder.spec
        return {
            "labels": list(spec.labels),
            "problem_type": spec.problem_type,
            "activation": spec.activation,
        }

    def read(self, request: Any, given: dict[str, Any]) -> Work:
        """See ``EncoderModel.read``."""
        seconds = self.texts(request, "text_pair", may_be_empty=True)
        firsts = self.texts(request, "text_input", may_be_empty=seconds is not None)
        if firsts is None:
            raise EmptyInputError("text_input is missing")
        return self.work(given, "text_input", firsts, seconds, "text_pair")

    def work(
        self, given: dict[str, Any], name: str, firsts: list[str], seconds: list[str] | None,
        second_name: str,
    ) -> Work:  # fmt: skip
        """Texts, or pairs; a single first text is paired with every second one.

        One text of a pair may be empty, as passages of a list sometimes are.

        Raises:
            ValidationError: the two have different counts, or both texts of a pair are empty.
        """
        truncate, direction = self.truncation(given)
        is_raw = tensors.as_bool("raw_scores", given.get("raw_scores", False))
        instruction = given.get("instruction")
        if instruction is not None and not isinstance(instruction, str):
            raise ValidationError(f"instruction is {instruction!r}; expected text")
        options = ScoreOptions(is_raw, instruction)
        texts: tuple[Any, ...] = tuple(firsts)
        if seconds is not None:
            if len(firsts) == 1:
                firsts = firsts * len(seconds)
            if len(firsts) != len(seconds):
                raise ValidationError(
                    f"{name} has {len(firsts)} texts and {second_name} {len(seconds)}; "
                    "the counts must agree"
                )
            texts = tuple(zip(firsts, seconds, strict=True))
            for index, pair in enumerate(texts):
                if not any(pair):
                    raise EmptyInputError(f"{name}[{index}] and its {second_name} are empty")
        if self.prompt:
            texts = tuple(
                self.prompt + t if isinstance(t, str) else (self.prompt + t[0], t[1]) for t in texts
            )
        return Work(name, options, texts, truncate=truncate, direction=direction)

    def answer(self, work: Work, rows: list[Scored], lengths: list[int]) -> dict[str, Any]:
        """See ``EncoderModel.answer``."""
        return {
            "score": np.stack([row.scores for row in rows]),
            "logit": np.stack([row.logits for row in rows]),
            **counts(lengths),
        }


class RerankModel(ClassifyModel):
    """query and text_input -> score and logit (rows, 1): one query for all, or one for each."""

    task = "rerank"
    parameters = ClassifyModel.parameters | {"instruction"}

    def load(self, folder: Path, settings: Settings) -> Scorer:
        """Raises UnsupportedModel: the checkpoint has several labels."""
        self.decoder: DecoderReranker | None = None
        if rerankers.is_decoder(read_object(transformer_folder(folder) / "config.json")):
            own = replace(settings, task=self.task)
            self.encoder = self.decoder = DecoderReranker(folder, own, self.tokenizer)
            self.prompt = self.encoder.spec.pair_prompt if self.decoder.pairs is None else ""
        else:
            super().load(folder, settings)
        labels = self.encoder.spec.labels
        if len(labels) != 1:
            raise UnsupportedModel(f"a reranker has one label; {folder} has {len(labels)}")
        return self.encoder

    def _load(self, folder: Path, settings: Settings) -> Encoder:
        """See ``EncoderModel``. Raises ConfigError: no pair could be scored."""
        encoder = super()._load(folder, settings)
        try:
            for texts in self.routed.text_encoders.values():
                texts.check_pairs()
        except ValidationError as error:
            raise ConfigError(f"{folder}: {error}") from error
        return encoder

    def facts(self) -> dict[str, Any]:
        """See ``EncoderModel.facts``."""
        found = super().facts()
        if self.decoder is not None:
            pairs = self.decoder.pairs
            found["reranker_template"] = self.decoder.form.template
            found["instruction"] = None if pairs is None else pairs.prompt.instruction
            found["pooling"] = "last-token"
        return found

    def encode(self, work: Work) -> list[Encoded]:
        """See ``EncoderModel.encode``; documents of one query share its tokens."""
        rows = cast(Sequence[tuple[str, str]], work.texts)
        pairs = None if self.decoder is None else self.decoder.pairs
        instruction = work.options.instruction
        if pairs is not None:
            encoded = pairs.encode(
                rows, name="text_input", truncate=work.truncate, direction=work.direction,
                instruction=instruction,
            )  # fmt: skip
        elif instruction is not None:
            raise ValidationError(
                f"instruction is {instruction!r:.80}; this model has no place for one"
            )
        else:
            encoded = super().encode(work)
        if self.decoder is None or not self.decoder.shares_prefixes:
            return encoded
        return with_prefixes(encoded, [query for query, _ in rows])

    def read(self, request: Any, given: dict[str, Any]) -> Work:
        """See ``EncoderModel.read``."""
        queries = self.texts(request, "query")
        texts = self.texts(request, "text_input", may_be_empty=True)
        if queries is None or texts is None:
            raise EmptyInputError(f"{'query' if queries is None else 'text_input'} is missing")
        # Errors of a pair name its text: there may be a single query.
        return replace(self.work(given, "query", queries, texts, "text_input"), name="text_input")
