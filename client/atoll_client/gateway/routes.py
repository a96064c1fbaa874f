"""Every route of the gateway, in one table. All of them exist below ``/{model}`` too."""

from __future__ import annotations

from typing import Any

from atoll_client.gateway import documentation, vertex
from atoll_client.gateway import shape_routing as shapes
from atoll_client.gateway.core.web import EVENTS, JSON, TEXT, Route
from atoll_client.gateway.kserve import routes as kserve
from atoll_client.gateway.openai import answers as openai_answers
from atoll_client.gateway.openai import chat as openai_chat
from atoll_client.gateway.openai import completions as openai_completions
from atoll_client.gateway.openai import embeddings as openai_embeddings
from atoll_client.gateway.openai import embeddings_schemas
from atoll_client.gateway.tei import answers as tei_answers
from atoll_client.gateway.tei import rerankers, rerankers_schemas
from atoll_client.gateway.tei import routes as tei
from atoll_client.gateway.tei import schemas as tei_body
from atoll_client.gateway.tgi import routes as tgi
from atoll_client.gateway.tgi import schemas as tgi_body

_TEXT = "What is deep learning?"
_CHAT = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
_GENERATE = {"inputs": _TEXT, "parameters": {"max_new_tokens": 20}}
_PAIRS = {"query": _TEXT, "documents": ["Deep learning is...", "cheese"]}
# What POST / tells apart, and what it answers.
_ROOT_BODIES = (
    tei_body.EmbedBody, tei_body.EmbedSparseBody, shapes.ClassificationBody, tei_body.RerankBody,
    rerankers_schemas.CohereBody, tei_body.SimilarityBody, tgi_body.GenerateBody,
    openai_chat.ChatBody, openai_completions.CompletionsBody,
)  # fmt: skip
_ROOT_ANSWERS = {
    JSON: tei_answers.Vectors
    | list[list[tei_answers.SparseEntry]]
    | list[list[tei_answers.Prediction]]
    | list[tei_answers.RankedText]
    | list[float]
    | list[tei_answers.Generated]
    | openai_answers.Reranked
    | openai_answers.ChatCompletion
    | openai_answers.Completion,
    EVENTS: tei_answers.GeneratedEvent
    | openai_answers.ChatCompletionChunk
    | openai_answers.Completion,
}

ROUTES: tuple[Route, ...] = (
    # OpenAI
    Route("GET", "/v1/models", openai_embeddings.models, "openai", "Models and adapters",
          answers={JSON: openai_answers.ModelList}),
    Route("GET", "/v1/models/{model}", openai_embeddings.model, "openai", "One model",
          pattern="/v1/models/{model:path}", answers={JSON: openai_answers.ModelCard}),
    Route(
        "POST", "/v1/chat/completions", openai_chat.chat, "openai", "Chat",
        openai_chat.ChatBody, example={**_CHAT, "max_tokens": 20},
        answers={JSON: openai_answers.ChatCompletion, EVENTS: openai_answers.ChatCompletionChunk},
    ),
    Route(
        "POST", "/v1/completions", openai_completions.completions, "openai", "Continue a text",
        openai_completions.CompletionsBody, example={"prompt": _TEXT, "max_tokens": 20},
        answers={JSON: openai_answers.Completion, EVENTS: openai_answers.Completion},
    ),
    *(
        Route(
            "POST", path, openai_embeddings.embeddings, "openai", "Vectors of texts",
            embeddings_schemas.EmbeddingsBody, example={"input": _TEXT},
            answers={JSON: openai_answers.EmbeddingList},
        )
        for path in ("/v1/embeddings", "/embeddings")
    ),
    *(
        Route(
            "POST", path, rerankers.rerank, "openai", "Rerank documents (Cohere, Jina)",
            rerankers_schemas.CohereBody, example=_PAIRS,
            answers={JSON: openai_answers.Reranked},
        )
        for path in ("/v1/rerank", "/v2/rerank")
    ),
    Route(
        "POST", "/v1/ranking", rerankers.ranking, "openai", "Rank passages (NVIDIA NIM)",
        rerankers_schemas.RankingBody,
        example={"query": {"text": _TEXT}, "passages": [{"text": "Deep learning is..."}]},
        answers={JSON: openai_answers.Rankings},
    ),
    Route(
        "POST", "/v1/score", rerankers.score, "openai", "Score pairs of texts",
        rerankers_schemas.ScoreBody, example={"text_1": _TEXT, "text_2": ["Deep learning is..."]},
        answers={JSON: openai_answers.ScoreList},
    ),
    # Text Embeddings Inference
    Route(
        "POST", "/embed", tei.embed, "tei", "Vectors of texts", tei_body.EmbedBody,
        example={"inputs": _TEXT}, answers={JSON: tei_answers.Vectors},
    ),
    Route(
        "POST", "/embed_all", tei.embed_all, "tei", "Vectors of every token",
        tei_body.EmbedAllBody, example={"inputs": _TEXT},
        answers={JSON: tei_answers.TokenVectors},
    ),
    Route(
        "POST", "/embed_sparse", tei.embed_sparse, "tei", "Sparse vectors of texts",
        tei_body.EmbedSparseBody, example={"inputs": _TEXT},
        answers={JSON: list[list[tei_answers.SparseEntry]]},
    ),
    Route(
        "POST", "/predict", tei.predict, "tei", "Labels with scores", tei_body.PredictBody,
        example={"inputs": "I like you."},
        answers={JSON: list[tei_answers.Prediction] | list[list[tei_answers.Prediction]]},
    ),
    Route(
        "POST", "/rerank", shapes.rerank, "tei", "Scores of texts for a query", shapes.AnyBody,
        example={"query": _TEXT, "texts": ["Deep learning is...", "cheese"]},
        bodies=(tei_body.RerankBody, rerankers_schemas.CohereBody),
        answers={JSON: list[tei_answers.RankedText] | openai_answers.Reranked},
    ),
    Route(
        "POST", "/similarity", tei.similarity, "tei", "Cosine of sentences with another",
        tei_body.SimilarityBody,
        example={"inputs": {"source_sentence": _TEXT, "sentences": ["What is ML?"]}},
        answers={JSON: list[float]},
    ),
    Route(
        "POST", "/decode", tei.decode, "tei", "Texts of token ids", tei_body.DecodeBody,
        example={"ids": [101, 2054, 102]}, answers={JSON: list[str]},
    ),
    Route(
        "POST", "/tokenize", shapes.tokenize, "tei", "Tokens of texts", shapes.AnyBody,
        example={"inputs": _TEXT}, bodies=(tei_body.TokenizeBody, tgi_body.GenerateBody),
        answers={JSON: list[list[tei_answers.TokenPlace]] | list[tei_answers.SimpleToken]},
    ),
    # Text Generation Inference
    Route(
        "POST", "/generate", tgi.generate, "tgi", "Generate text", tgi_body.GenerateBody,
        example=_GENERATE, answers={JSON: tei_answers.Generated},
    ),
    Route(
        "POST", "/generate_stream", tgi.generate_stream, "tgi", "Generate text, streamed",
        tgi_body.GenerateBody, example=_GENERATE, answers={EVENTS: tei_answers.GeneratedEvent},
    ),
    Route(
        "POST", "/chat_tokenize", tgi.chat_tokenize, "tgi", "The prompt that a chat becomes",
        tgi.ChatTokenizeBody, example=_CHAT, answers={JSON: tei_answers.ChatTokens},
    ),
    *(
        Route(
            "POST", path, shapes.root, "tgi", "By the body's shape and the models served",
            shapes.AnyBody, example={"inputs": _TEXT}, bodies=_ROOT_BODIES, answers=_ROOT_ANSWERS,
        )
        for path in ("/", "/invocations")
    ),
    Route(
        "POST", "/vertex", vertex.vertex, "tei", "Several requests (Google Vertex AI)",
        vertex.VertexBody, example={"instances": [{"inputs": _TEXT}]},
        answers={JSON: tei_answers.Predictions},
    ),
    # KServe
    *kserve.ROUTES,
    # All of them, and the gateway's own
    Route("GET", "/info", shapes.info, "tei", "What is served", uncounted=True,
          answers={JSON: tei_answers.Info}),
    *(
        Route("GET", path, shapes.health, "tei", "Whether a server is ready", public=True,
              answers={TEXT: str})
        for path in ("/health", "/ping", "/v1/health/ready")
    ),
    Route("GET", "/v1/health/live", shapes.live, "tei", "Whether the gateway is up", public=True,
          answers={TEXT: str}),
    Route("GET", "/metrics", shapes.metrics, "tei", "Prometheus metrics", public=True,
          answers={TEXT: str}),
    Route("GET", "/", documentation.page, "tei", "A page for browsers", uncounted=True,
          answers={"text/html": str, TEXT: str}),
    Route("GET", "/docs", documentation.docs, "tei", "This description, to read", public=True,
          answers={"text/html": str}),
    *(
        Route("GET", path, documentation.openapi, "tei", "This description", public=True,
              answers={JSON: dict[str, Any]})
        for path in ("/openapi.json", "/api-doc/openapi.json")
    ),
)  # fmt: skip
