"""Immutable descriptions of models and of their answers, for the clients and the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ModelInfo:
    """A served model and its description of itself.

    task: one of ``tasks.ENCODER_TASKS``, generate or transcribe. facts: the complete description.
    """

    name: str
    task: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Its task, and those that it can do besides: bge-m3 embeds, and has sparse vectors."""
        return (self.task, *(self.facts.get("tasks") or ()))

    @property
    def model_id(self) -> str:
        """Hub id or folder of its checkpoint."""
        return str(self.facts.get("model_id") or self.name)

    @property
    def public_id(self) -> str:
        """``model_id``; of a folder only its name, since its path is private."""
        is_folder = self.model_id.startswith(("/", ".", "~", "\\")) or ":" in self.model_id
        # It splits at both kinds of slashes.
        return PureWindowsPath(self.model_id).name if is_folder else self.model_id

    @property
    def labels(self) -> tuple[str, ...]:
        """A classifier's labels, in the order of its scores."""
        return tuple(self.facts.get("labels") or ())

    @property
    def max_client_batch_size(self) -> int:
        """Texts allowed in one request."""
        return int(self.facts.get("max_client_batch_size") or 256)

    @property
    def max_input_tokens(self) -> int:
        """Tokens allowed in an input."""
        return int(self.facts.get("max_input_tokens") or 512)

    @property
    def prompts(self) -> Mapping[str, str]:
        """The texts that each ``prompt_name`` puts in front of an input."""
        return self.facts.get("prompts") or {}

    @property
    def may_reason(self) -> bool:
        """Whether it is a generator whose answers may begin with reasoning."""
        return self.facts.get("reasoning_parser") not in (None, "none")

    @property
    def adapters(self) -> tuple[str, ...]:
        """LoRA adapters, each of which can be used as a model name."""
        return tuple(self.facts.get("adapters") or ())


@dataclass(frozen=True)
class Embeddings:
    """vectors: (texts, width) float32. num_tokens: (texts,) counts of input tokens."""

    vectors: Floats
    num_tokens: npt.NDArray[np.uint32]


class SparseVector(NamedTuple):
    """indices: token ids, ascending. values: their weights, all positive."""

    indices: npt.NDArray[np.int32]
    values: Floats


@dataclass(frozen=True)
class HybridEmbeddings:
    """What bge-m3 makes of texts in one go.

    vectors: (texts, width) float32. sparse: weights of words of each text. colbert_vecs: of each
    text (tokens - 1, width) unit vectors. The last two are None if they were not asked for.
    """

    vectors: Floats
    sparse: list[SparseVector] | None = None
    colbert_vecs: list[Floats] | None = None


@dataclass(frozen=True)
class Rank:
    """index: the text's place in the request."""

    index: int
    score: float
    text: str | None = None


class Label(NamedTuple):
    """One label of a classifier with its score."""

    label: str
    score: float


@dataclass(frozen=True)
class Entity:
    """A part of a text with a label, ``text[start:end]``; start and end count code points.

    word: its tokens as text. index: the token's place among the text's tokens, if tokens are not
    aggregated.
    """

    label: str
    score: float
    start: int
    end: int
    word: str
    index: int | None = None


class Alternative(NamedTuple):
    r"""A token that might have been generated; ``text`` is ``bytes:\\xe2`` for half a character."""

    id: int
    text: str
    logprob: float
    bytes: bytes = b""
    special: bool = False


class Token(NamedTuple):
    """A generated token; ``top`` are the likeliest tokens in its place.

    text: its part of the answer, so that the texts of all tokens add up to the answer: empty for a
        special token that is left out, or for a piece of a character that a later token completes.
    bytes: the token's own, even if they are not whole characters; empty if it is left out.
    name: the token's own text if it is left out of the answer; otherwise the same as ``text``.
    """

    id: int
    text: str
    logprob: float | None = None
    special: bool = False
    top: tuple[Alternative, ...] = ()
    bytes: bytes = b""
    name: str = ""


@dataclass(frozen=True)
class Chunk:
    """The new part of a stream.

    finish_reason: "" until the end; then stop or length. stop_string: the one that ended the text.
    reasoning_state: whether the prompt has left reasoning "open" or "closed" it, if the option
    ``reasoning`` is set; in the first chunk.
    num_accepted_tokens, num_rejected_tokens: of the option ``prediction``, at the end.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    finish_reason: str = ""
    stop_string: str = ""
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    num_cached_tokens: int = 0
    num_accepted_tokens: int = 0
    num_rejected_tokens: int = 0
    cumulative_logprob: float | None = None
    prompt_tokens: tuple[Token, ...] = ()
    reasoning_state: str = ""


@dataclass(frozen=True)
class Generation(Chunk):
    """A complete answer in one chunk."""


class TextToken(NamedTuple):
    """A token of a text; start and stop count characters and are None for special tokens."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None
