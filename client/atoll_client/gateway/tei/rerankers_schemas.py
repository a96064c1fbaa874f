"""What reranking routes are sent: Cohere's and Jina's, NVIDIA NIM's, vLLM's pairs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from atoll_client.gateway.core.fields import NoEffect, Refused
from atoll_client.gateway.core.schemas import Strict
from atoll_client.gateway.openai.embeddings_schemas import NimCut, OtherServers

_CHUNKS = Refused("a document is scored as a whole, cut to what the model takes")
_NO_PROMPT = Refused("a reranker's query has no prompt of its own")
_RAW = Refused("it is called raw_scores here, the other way round", (True,))


class _Scored(OtherServers):
    """Fields of all routes that give scores.

    ``use_activation`` is vLLM's: false asks for logits, as ``raw_scores`` does.
    """

    model: str | None = None
    raw_scores: bool = False
    use_activation: bool = True

    activation: Annotated[Any, _RAW] = None
    instruction: Annotated[Any, _NO_PROMPT] = None
    prompt_name: Annotated[Any, _NO_PROMPT] = None
    softmax: Annotated[Any, _RAW] = None

    @property
    def is_raw(self) -> bool:
        """Whether logits are asked for."""
        return self.raw_scores or not self.use_activation


class CohereBody(_Scored):
    """POST /v1/rerank and /v2/rerank."""

    query: str
    documents: list[str | dict[str, Any]]
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False

    max_chunks_per_doc: Annotated[Any, _CHUNKS] = None
    max_tokens_per_doc: Annotated[Any, _CHUNKS] = None
    overlap_tokens: Annotated[Any, _CHUNKS] = None
    rank_fields: Annotated[Any, Refused("a document's text is scored", (["text"],))] = None
    return_embeddings: Annotated[Any, Refused("a reranker has no vectors", (False,))] = None
    return_text: Annotated[Any, Refused("it is called return_documents here", (False,))] = None
    texts: Annotated[Any, Refused("they are called documents here")] = None
    top_k: Annotated[Any, Refused("it is called top_n here")] = None


class Text(Strict):
    """A text in an object, as NIM has them."""

    text: str

    image: Annotated[Any, Refused("passages are texts")] = None


class RankingBody(Strict):
    """POST /v1/ranking."""

    query: Text
    passages: list[Text]
    model: str | None = None
    truncate: NimCut | None = None

    top_n: Annotated[Any, Refused("all passages are returned")] = None
    user: Annotated[str | None, NoEffect("users are not told apart")] = None


class ScoreBody(_Scored):
    """POST /v1/score: texts one by one, or one text with each of the others."""

    text_1: str | list[str]
    text_2: str | list[str]

    documents: Annotated[Any, Refused("they are called text_2 here")] = None
    encoding_format: Annotated[Any, Refused("scores are numbers", ("float",))] = None
    queries: Annotated[Any, Refused("they are called text_1 here")] = None
