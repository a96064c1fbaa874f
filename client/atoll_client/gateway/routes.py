"""Every route of the gateway, in one table. All of them exist below ``/{model}`` too."""

from __future__ import annotations

from atoll_client.gateway import documentation, pages, vertex
from atoll_client.gateway import shape_routing as shapes
from atoll_client.gateway.admin import adapters as admin_adapters
from atoll_client.gateway.admin import routes as admin
from atoll_client.gateway.admin import schemas as admin_bodies
from atoll_client.gateway.anthropic import models as anthropic_models
from atoll_client.gateway.anthropic import routes as anthropic
from atoll_client.gateway.batches import files
from atoll_client.gateway.batches import routes as batches
from atoll_client.gateway.batches.schemas import BatchesQuery, FileBody, FilesQuery
from atoll_client.gateway.cohere import embed as cohere
from atoll_client.gateway.core.route import Handler, Route
from atoll_client.gateway.kserve import routes as kserve
from atoll_client.gateway.ollama import embed as ollama_embed
from atoll_client.gateway.ollama import models as ollama_models
from atoll_client.gateway.ollama import routes as ollama
from atoll_client.gateway.openai import chat as openai_chat
from atoll_client.gateway.openai import completions as openai_completions
from atoll_client.gateway.openai import embeddings as openai_embeddings
from atoll_client.gateway.openai import moderations, tokenization
from atoll_client.gateway.openai import transcriptions as openai_transcriptions
from atoll_client.gateway.responses import queries
from atoll_client.gateway.responses import routes as responses
from atoll_client.gateway.tei import rerankers, token_classifiers
from atoll_client.gateway.tei import routes as tei
from atoll_client.gateway.tgi import routes as tgi

_TEXT = "What is deep learning?"
_CHAT = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
_GENERATE = {"inputs": _TEXT, "parameters": {"max_new_tokens": 20}}
_PAIRS = {"query": _TEXT, "documents": ["Deep learning is...", "cheese"]}
# What POST / chooses from.
_BY_SHAPE: tuple[Handler, ...] = (
    tei.embed, tei.embed_sparse, shapes.classification, tei.rerank, rerankers.rerank,
    token_classifiers.token_classification, tei.similarity, tgi.compatible, openai_chat.chat,
    openai_completions.completions,
)  # fmt: skip

_ANTHROPIC_VERSION = {"anthropic-version": "If it is set, the answer has Anthropic's shape"}
# A WAV file of a millisecond.
_SOUND = {
    "file": "data:audio/wav;base64,UklGRjQAAABXQVZFZm10IBAAAAABAAEAgD4AAIA+AAABAAgAZGF0YR"
    "AAAACAgICAgICAgICAgICAgICA"
}

# A line of a batch's file.
_LINE = (
    '{"custom_id": "1", "method": "POST", "url": "/v1/embeddings", '
    f'"body": {{"input": "{_TEXT}"}}}}\n'
)

ROUTES: tuple[Route, ...] = (
    # OpenAI
    Route("GET", "/v1/models", anthropic_models.models, "openai", "Models and adapters",
          handlers=(openai_embeddings.models, anthropic_models.generators),
          headers=_ANTHROPIC_VERSION),
    Route("GET", "/v1/models/{model}", anthropic_models.model, "openai", "One model",
          pattern="/v1/models/{model:path}",
          handlers=(openai_embeddings.model, anthropic_models.generator),
          headers=_ANTHROPIC_VERSION),
    Route("POST", "/v1/chat/completions", openai_chat.chat, "openai", "Chat",
          example={**_CHAT, "max_tokens": 20}),
    Route("POST", "/v1/responses", responses.create, "openai", "A response (Responses API)",
          example={"input": _TEXT, "max_output_tokens": 20}),
    Route("POST", "/v1/responses/input_tokens", responses.input_tokens, "openai",
          "Tokens of a response's prompt", example={"input": _TEXT}),
    Route("POST", "/v1/responses/compact", responses.compact, "openai",
          "Refused: conversations are not compacted"),
    Route("GET", "/v1/responses/{response_id}", responses.retrieve, "openai", "A stored response",
          query=queries.StoredQuery),
    Route("DELETE", "/v1/responses/{response_id}", responses.delete, "openai",
          "Delete a stored response"),
    Route("GET", "/v1/responses/{response_id}/input_items", responses.input_items, "openai",
          "What a stored response answers", query=queries.PageQuery),
    Route("POST", "/v1/responses/{response_id}/cancel", responses.cancel, "openai",
          "Refused: only responses in the background can be cancelled"),
    Route("POST", "/v1/files", files.create, "openai", "Keep a file of requests",
          example={"purpose": "batch", "file": _LINE}, is_upload=True, bodies=(FileBody,)),
    Route("GET", "/v1/files", files.files, "openai", "Files", query=FilesQuery),
    Route("GET", "/v1/files/{file_id}", files.retrieve, "openai", "What a file is"),
    Route("DELETE", "/v1/files/{file_id}", files.delete, "openai", "Delete a file"),
    Route("GET", "/v1/files/{file_id}/content", files.content, "openai", "What is in a file"),
    Route("POST", "/v1/batches", batches.create, "openai", "Answer the requests of a file",
          example={"input_file_id": "file-0123456789abcdef01234567",
                   "endpoint": "/v1/embeddings", "completion_window": "24h"}),
    Route("GET", "/v1/batches", batches.batches, "openai", "Batches", query=BatchesQuery),
    Route("GET", "/v1/batches/{batch_id}", batches.retrieve, "openai", "A batch"),
    Route("POST", "/v1/batches/{batch_id}/cancel", batches.cancel, "openai",
          "End a batch before its time"),
    Route("POST", "/v1/completions", openai_completions.completions, "openai", "Continue a text",
          example={"prompt": _TEXT, "max_tokens": 20}),
    Route("POST", "/v1/audio/transcriptions", openai_transcriptions.transcriptions, "openai",
          "Transcribe speech", example=_SOUND, takes_tensors=True),
    Route("POST", "/v1/audio/translations", openai_transcriptions.translations, "openai",
          "Translate speech into English", example=_SOUND, takes_tensors=True),
    *(
        Route("POST", path, openai_embeddings.embeddings, "openai", "Vectors of texts",
              example={"input": _TEXT})
        for path in ("/v1/embeddings", "/embeddings")
    ),
    Route("POST", "/v2/embed", cohere.embed, "openai", "Vectors of texts (Cohere)",
          example={"texts": [_TEXT], "input_type": "search_query"}),
    *(
        Route("POST", path, rerankers.rerank, "openai", "Rerank documents (Cohere, Jina)",
              example=_PAIRS)
        for path in ("/v1/rerank", "/v2/rerank")
    ),
    Route("POST", "/v1/ranking", rerankers.ranking, "openai", "Rank passages (NVIDIA NIM)",
          example={"query": {"text": _TEXT}, "passages": [{"text": "Deep learning is..."}]}),
    Route("POST", "/v1/score", rerankers.score, "openai", "Score pairs of texts",
          example={"text_1": _TEXT, "text_2": ["Deep learning is..."]}),
    Route("POST", "/v1/moderations", moderations.moderations, "openai", "Labels that flag texts",
          example={"input": "I like you."}),
    # Anthropic
    Route("POST", "/v1/messages", anthropic.messages, "anthropic", "Chat",
          example={**_CHAT, "max_tokens": 20}),
    Route("POST", "/v1/messages/count_tokens", anthropic.count_tokens, "anthropic",
          "Tokens of a chat", example=_CHAT),
    # Ollama
    Route("POST", "/api/chat", ollama.chat, "ollama", "Chat",
          example={**_CHAT, "options": {"num_predict": 20}}),
    Route("POST", "/api/generate", ollama.generate, "ollama", "Answer a prompt",
          example={"prompt": _TEXT, "options": {"num_predict": 20}}),
    Route("POST", "/api/embed", ollama_embed.embed, "ollama", "Vectors of texts",
          example={"input": _TEXT}),
    Route("POST", "/api/embeddings", ollama_embed.embeddings, "ollama", "The vector of a text",
          example={"prompt": _TEXT}),
    Route("POST", "/api/show", ollama_models.show, "ollama", "What a model is", uncounted=True,
          example={"verbose": False}),
    Route("GET", "/api/tags", ollama_models.tags, "ollama", "Models and adapters",
          uncounted=True),
    Route("GET", "/api/ps", ollama_models.processes, "ollama", "Models in memory: all",
          uncounted=True),
    Route("GET", "/api/version", ollama_models.version, "ollama", "The interface's version",
          public=True),
    *(
        Route(method, f"/api/{path}", ollama_models.unavailable, "ollama", "Not offered")
        for method, path in (
            ("POST", "create"), ("POST", "copy"), ("DELETE", "delete"), ("POST", "pull"),
            ("POST", "push"), ("POST", "blobs/{digest}"),
        )
    ),
    # Text Embeddings Inference
    Route("POST", "/embed", tei.embed, "tei", "Vectors of texts", example={"inputs": _TEXT}),
    Route("POST", "/embed_all", tei.embed_all, "tei", "Vectors of every token",
          example={"inputs": _TEXT}),
    Route("POST", "/embed_sparse", tei.embed_sparse, "tei", "Sparse vectors of texts",
          example={"inputs": _TEXT}),
    Route("POST", "/predict", tei.predict, "tei", "Labels with scores, or entities",
          example={"inputs": "I like you."}),
    Route("POST", "/rerank", shapes.rerank, "tei", "Scores of texts for a query",
          example={"query": _TEXT, "texts": ["Deep learning is...", "cheese"]},
          handlers=(tei.rerank, rerankers.rerank)),
    Route("POST", "/similarity", tei.similarity, "tei", "Cosine of sentences with another",
          example={"inputs": {"source_sentence": _TEXT, "sentences": ["What is ML?"]}}),
    Route("POST", "/decode", tei.decode, "tei", "Texts of token ids",
          example={"ids": [101, 2054, 102]}),
    Route("POST", "/tokenize", shapes.tokenize, "tei", "Tokens of texts",
          example={"inputs": _TEXT},
          handlers=(tei.tokenize, tgi.tokenize, tokenization.tokenize_prompt,
                    tokenization.tokenize_chat)),
    Route("POST", "/detokenize", tokenization.detokenize, "openai", "The text of token ids (vLLM)",
          example={"tokens": [101, 2054, 102]}),
    # Text Generation Inference
    Route("POST", "/generate", tgi.generate, "tgi", "Generate text", example=_GENERATE),
    Route("POST", "/generate_stream", tgi.generate_stream, "tgi", "Generate text, streamed",
          example=_GENERATE),
    Route("POST", "/chat_tokenize", tgi.chat_tokenize, "tgi", "The prompt that a chat becomes",
          example=_CHAT),
    *(
        Route("POST", path, shapes.root, "tgi", "By the body's shape and the models served",
              example={"inputs": _TEXT}, handlers=_BY_SHAPE)
        for path in ("/", "/invocations")
    ),
    Route("POST", "/vertex", vertex.vertex, "tei", "Several requests (Google Vertex AI)",
          example={"instances": [{"inputs": _TEXT}]}),
    # KServe
    *kserve.ROUTES,
    # For administrators
    Route("GET", "/admin/models", admin.models, "tei", "Models of the server, loaded or not",
          admin=True),
    Route("POST", "/admin/models/load", admin.change, "tei", "Load a model", admin=True,
          bodies=(admin_bodies.LoadBody,),
          example={"model": "BAAI/bge-small-en-v1.5", "settings": {"dtype": "int8"}}),
    Route("POST", "/admin/models/unload", admin.change, "tei", "Unload a model", admin=True,
          bodies=(admin_bodies.UnloadBody,), example={"model": "bge-small-en-v1.5"}),
    Route("POST", "/admin/models/reload", admin.change, "tei", "Replace a model by itself",
          admin=True, bodies=(admin_bodies.ReloadBody,),
          example={"model": "bge-small-en-v1.5", "settings": {"dtype": "float32"}}),
    Route("POST", "/admin/adapters/load", admin.change, "tei", "Load a LoRA adapter",
          admin=True, bodies=(admin_adapters.LoadAdapterBody,),
          example={"lora_name": "poet", "lora_path": "/adapters/poet"}),
    Route("POST", "/admin/adapters/unload", admin.change, "tei", "Unload a LoRA adapter",
          admin=True, bodies=(admin_adapters.UnloadAdapterBody,), example={"lora_name": "poet"}),
    Route("POST", "/v1/load_lora_adapter", admin_adapters.load, "openai",
          "Load a LoRA adapter (vLLM)", admin=True,
          example={"lora_name": "poet", "lora_path": "/adapters/poet"}),
    Route("POST", "/v1/unload_lora_adapter", admin_adapters.unload, "openai",
          "Unload a LoRA adapter (vLLM)", admin=True, example={"lora_name": "poet"}),
    Route("GET", "/admin/logs", admin.logs, "tei", "The server's log", admin=True,
          query=admin_bodies.LogQuery),
    # The gateway's own
    Route("GET", "/version", tokenization.version, "openai", "The version (vLLM)", public=True),
    Route("GET", "/info", shapes.info, "tei", "What is served", uncounted=True),
    *(
        Route("GET", path, shapes.health, "tei", "Whether a server is ready", public=True)
        for path in ("/health", "/ping", "/v1/health/ready")
    ),
    Route("GET", "/v1/health/live", shapes.live, "tei", "Whether the gateway is up", public=True),
    Route("GET", "/metrics", shapes.metrics, "tei", "Prometheus metrics", public=True),
    Route("GET", "/", pages.start, "tei", "A page for browsers", public=True),
    Route("GET", "/docs", pages.reference, "tei", "This description, to read", public=True),
    Route("GET", "/assets/{file}", pages.asset, "tei", "A file of a page", public=True,
          pattern="/assets/{file:path}"),
    *(
        Route("GET", path, documentation.openapi, "tei", "This description", public=True)
        for path in ("/openapi.json", "/api-doc/openapi.json")
    ),
)  # fmt: skip
