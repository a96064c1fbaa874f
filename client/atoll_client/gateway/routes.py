"""Every route of the gateway, in one table. All of them exist below ``/{model}`` too."""

from __future__ import annotations

from atoll_client.gateway import (
    documentation,
    openai_chat,
    openai_completions,
    openai_embeddings,
    rerankers,
    shared,
    tei,
    tgi,
    tgi_body,
    vertex,
)
from atoll_client.gateway.http import Route
from atoll_client.gateway.kserve import routes as kserve

_TEXT = "What is deep learning?"
_CHAT = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
_GENERATE = {"inputs": _TEXT, "parameters": {"max_new_tokens": 20}}
_PAIRS = {"query": _TEXT, "documents": ["Deep learning is...", "cheese"]}

ROUTES: tuple[Route, ...] = (
    # OpenAI
    Route("GET", "/v1/models", openai_embeddings.models, "openai", "Models and adapters"),
    Route("GET", "/v1/models/{model}", openai_embeddings.model, "openai", "One model"),
    Route(
        "POST", "/v1/chat/completions", openai_chat.chat, "openai", "Chat",
        openai_chat.ChatBody, example={**_CHAT, "max_tokens": 20},
    ),
    Route(
        "POST", "/v1/completions", openai_completions.completions, "openai", "Continue a text",
        openai_completions.CompletionsBody, example={"prompt": _TEXT, "max_tokens": 20},
    ),
    *(
        Route(
            "POST", path, openai_embeddings.embeddings, "openai", "Vectors of texts",
            openai_embeddings.EmbeddingsBody, example={"input": _TEXT},
        )
        for path in ("/v1/embeddings", "/embeddings")
    ),
    *(
        Route(
            "POST", path, rerankers.rerank, "openai", "Rerank documents (Cohere, Jina)",
            rerankers.CohereBody, example=_PAIRS,
        )
        for path in ("/v1/rerank", "/v2/rerank")
    ),
    Route(
        "POST", "/v1/ranking", rerankers.ranking, "openai", "Rank passages (NVIDIA NIM)",
        rerankers.RankingBody,
        example={"query": {"text": _TEXT}, "passages": [{"text": "Deep learning is..."}]},
    ),
    Route(
        "POST", "/v1/score", rerankers.score, "openai", "Score pairs of texts",
        rerankers.ScoreBody, example={"text_1": _TEXT, "text_2": ["Deep learning is..."]},
    ),
    # Text Embeddings Inference
    Route(
        "POST", "/embed", tei.embed, "tei", "Vectors of texts", tei.EmbedBody,
        example={"inputs": _TEXT},
    ),
    Route(
        "POST", "/embed_all", tei.embed_all, "tei", "Vectors of every token",
        tei.EmbedBody, example={"inputs": _TEXT},
    ),
    Route(
        "POST", "/embed_sparse", tei.embed_sparse, "tei", "Sparse vectors of texts",
        tei.EmbedBody, example={"inputs": _TEXT},
    ),
    Route(
        "POST", "/predict", tei.predict, "tei", "Labels with scores", tei.PredictBody,
        example={"inputs": "I like you."},
    ),
    Route(
        "POST", "/rerank", shared.rerank, "tei", "Scores of texts for a query", shared.AnyBody,
        example={"query": _TEXT, "texts": ["Deep learning is...", "cheese"]},
    ),
    Route(
        "POST", "/similarity", tei.similarity, "tei", "Cosine of sentences with another",
        tei.SimilarityBody,
        example={"inputs": {"source_sentence": _TEXT, "sentences": ["What is ML?"]}},
    ),
    Route(
        "POST", "/decode", tei.decode, "tei", "Texts of token ids", tei.DecodeBody,
        example={"ids": [101, 2054, 102]},
    ),
    Route(
        "POST", "/tokenize", shared.tokenize, "tei", "Tokens of texts", shared.AnyBody,
        example={"inputs": _TEXT},
    ),
    # Text Generation Inference
    Route(
        "POST", "/generate", tgi.generate, "tgi", "Generate text", tgi_body.GenerateBody,
        example=_GENERATE,
    ),
    Route(
        "POST", "/generate_stream", tgi.generate_stream, "tgi", "Generate text, streamed",
        tgi_body.GenerateBody, example=_GENERATE,
    ),
    Route(
        "POST", "/chat_tokenize", tgi.chat_tokenize, "tgi", "The prompt that a chat becomes",
        tgi.ChatTokenizeBody, example=_CHAT,
    ),
    *(
        Route(
            "POST", path, shared.root, "tgi", "By the body's shape and the models served",
            shared.AnyBody, example={"inputs": _TEXT},
        )
        for path in ("/", "/invocations")
    ),
    Route(
        "POST", "/vertex", vertex.vertex, "tei", "Several requests (Google Vertex AI)",
        vertex.VertexBody, example={"instances": [{"inputs": _TEXT}]},
    ),
    # KServe
    *kserve.ROUTES,
    # All of them, and the gateway's own
    Route("GET", "/info", shared.info, "tei", "What is served", public=True),
    *(
        Route("GET", path, shared.health, "tei", "Whether a server is ready", public=True)
        for path in ("/health", "/ping", "/v1/health/ready")
    ),
    Route("GET", "/v1/health/live", shared.live, "tei", "Whether the gateway is up", public=True),
    Route("GET", "/metrics", shared.metrics, "tei", "Prometheus metrics", public=True),
    Route("GET", "/", documentation.page, "tei", "A page for browsers", public=True),
    Route("GET", "/docs", documentation.docs, "tei", "This description, to read", public=True),
    *(
        Route("GET", path, documentation.openapi, "tei", "This description", public=True)
        for path in ("/openapi.json", "/api-doc/openapi.json")
    ),
)  # fmt: skip
