"""What a checkpoint was found to be."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.models.answer_rules import AnswerRules
from atoll.models.search_keys import SearchKeys


@dataclass(frozen=True)
class Detected:
    """What a checkpoint is.

    architecture: the first of config.json's ``architectures``, or "" where it has none.
    embedding_size: width of the vectors an embedder answers with, after its Dense modules.
    labels: a classifier's labels in the order of its logits.
    runs_on: "native" for a file of ``atoll.models``, else the class of transformers, or what the
    model is in place of an architecture.
    pooling: of an embedder. notes: what a user should know, a sentence each.
    rules: for an answer's tokens. forced_bos_token_id: the one that an encoder-decoder's answers
    begin with. search: for answers, unless a request says something else.
    heads: an embedder's for each token, see
    ``weights.token_heads``. takes_images: whether an embedder embeds images besides texts.
    """

    task: str
    architecture: str
    model_type: str
    hidden_size: int
    embedding_size: int
    max_tokens: int | None
    dtype: str | None
    labels: tuple[str, ...] = ()
    runs_on: str = "native"
    pooling: str | None = None
    notes: tuple[str, ...] = ()
    rules: AnswerRules = AnswerRules()
    forced_bos_token_id: int | None = None
    search: SearchKeys | None = None
    heads: tuple[str, ...] = ()
    takes_images: bool = False
