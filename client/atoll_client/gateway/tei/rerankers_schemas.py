"""The bodies of the reranking routes: Cohere's and Jina's, NVIDIA NIM's, vLLM's pairs."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from atoll_client.gateway.core.encoders import Parameters
from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.schemas import Strict
from atoll_client.gateway.openai.embeddings_schemas import NimCut, OtherServers

_CHUNKS = "a document is scored as a whole, truncated to the model's limit"
_NO_PROMPT = "a reranker's query has no separate prompt"
_RAW = "it is called raw_scores here, with the opposite meaning"


class _Scored(OtherServers):
    """Fields of all routes that return scores.

    instruction: what a reranker that is a decoder is told to judge. vLLM's ``use_activation:
    false`` is the same as ``raw_scores: true``.
    """

    model: str | None = None
    raw_scores: bool = False
    use_activation: bool = True
    instruction: str | None = None

    activation: Any = refused(_RAW, True)
    prompt_name: Any = refused(_NO_PROMPT)
    softmax: Any = refused(_RAW, True)

    @property
    def is_raw(self) -> bool:
        """Whether logits are requested instead of scores."""
        return self.raw_scores or not self.use_activation

    def cut(self) -> Parameters:
        """The models' parameters of truncation and of the instruction."""
        return {**super().cut(), "instruction": self.instruction}


class CohereBody(_Scored):
    """POST /v1/rerank and /v2/rerank."""

    query: str
    documents: list[str | dict[str, Any]]
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False

    max_chunks_per_doc: Any = refused(_CHUNKS)
    max_tokens_per_doc: Any = refused(_CHUNKS)
    overlap_tokens: Any = refused(_CHUNKS)
    rank_fields: Any = refused("a document's text is scored", ["text"])
    return_embeddings: Any = refused("a reranker has no vectors", False)
    return_text: Any = refused("it is called return_documents here", False)
    texts: Any = refused("they are called documents here")
    top_k: Any = refused("it is called top_n here")


class Text(Strict):
    """A text in an object, as NIM sends them."""

    text: str

    image: Any = refused("passages are texts")


class RankingBody(Strict):
    """POST /v1/ranking."""

    query: Text
    passages: list[Text]
    model: str | None = None
    truncate: NimCut | None = None

    top_n: Any = refused("all passages are returned")
    user: str | None = no_effect("requests of all users are treated alike")


class ScoreBody(_Scored):
    """POST /v1/score: pairs of texts, or one text with each of the others."""

    text_1: str | list[str]
    text_2: str | list[str]

    documents: Any = refused("they are called text_2 here")
    encoding_format: Any = refused("scores are numbers", "float")
    queries: Any = refused("they are called text_1 here")
