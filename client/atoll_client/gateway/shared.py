"""Routes that more than one interface has: what they do is read from the body and the models."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict

from atoll_client.errors import MalformedRequest, NotReady, ValidationError
from atoll_client.gateway import openai_chat, openai_completions, rerankers, tei, tgi, tgi_body
from atoll_client.gateway.bodies import read
from atoll_client.gateway.http import Answer, Handler, Reply, Request, reply
from atoll_client.gateway.metrics import CONTENT_TYPE
from atoll_client.types import ModelInfo

_ENCODERS = ("embed", "sparse", "rerank", "classify")
# What only a generator's request, or only an encoder's, has.
_GENERATOR_FIELDS = ("stream", "messages", "prompt")
_ENCODER_FIELDS = (
    "truncate", "truncation_direction", "normalize", "prompt_name", "dimensions", "raw_scores",
)  # fmt: skip


class AnyBody(BaseModel):
    """A body whose kind is found out by the route."""

    model_config = ConfigDict(extra="allow")


async def root(request: Request, body: AnyBody) -> Answer:
    """POST / and /invocations: by the body's shape, then by the models served."""
    fields = _fields(request)
    handler, kind = _root(request, fields)
    return await handler(request, read(kind, request.body))


def _root(request: Request, fields: dict[str, Any]) -> tuple[Handler, type[BaseModel]]:
    inputs = fields.get("inputs")
    if "messages" in fields:
        return openai_chat.chat, openai_chat.ChatBody
    if "prompt" in fields:
        return openai_completions.completions, openai_completions.CompletionsBody
    if "query" in fields:
        return rerank_kind(fields)
    if isinstance(inputs, dict) and "source_sentence" in inputs:
        return tei.similarity, tei.SimilarityBody
    task = _task(request, fields)
    if task == "generate":
        return tgi.compatible, tgi_body.GenerateBody
    if task in ("classify", "rerank"):
        return classification, tei.PredictBody
    return (tei.embed_sparse if task == "sparse" else tei.embed), tei.EmbedBody


def rerank_kind(fields: dict[str, Any]) -> tuple[Handler, type[BaseModel]]:
    """TEI says ``texts``, Cohere ``documents``."""
    if "documents" in fields:
        return rerankers.rerank, rerankers.CohereBody
    return tei.rerank, tei.RerankBody


def _task(request: Request, fields: dict[str, Any]) -> str:
    """The task of the model that is named, else what the fields suggest, else the first served."""
    models = request.gateway.models
    named = request.model or fields.get("model")
    found = models.named(named) if isinstance(named, str) else None
    if found is not None:
        return found.task
    parameters = fields.get("parameters")
    is_generator = any(name in fields for name in _GENERATOR_FIELDS) or (
        isinstance(parameters, dict) and not parameters.keys() & {"function_to_apply"}
        and bool(parameters)
    )  # fmt: skip
    is_encoder = any(name in fields for name in _ENCODER_FIELDS) or isinstance(
        fields.get("inputs"), list
    )
    order = ("generate",) if is_generator and not is_encoder else _ENCODERS
    model = models.default((*order, *_ENCODERS, "generate"))
    if model is None:
        raise NotReady("no server is ready")
    return model.task


async def classification(request: Request, body: tei.PredictBody) -> Reply:
    """POST / of a classifier: as /predict, but always nested, as Hugging Face's clients read it."""
    model = tei.find(request, body.model, ("classify", "rerank"))
    pairs, _ = tei.pairs_of(body.inputs)
    scores, _ = await tei.scored(request, model, pairs, body)
    return reply([tei.labels_of(model, row) for row in scores])


async def rerank(request: Request, body: AnyBody) -> Answer:
    """POST /rerank, TEI's or Cohere's."""
    handler, kind = rerank_kind(_fields(request))
    return await handler(request, read(kind, request.body))


async def tokenize(request: Request, body: AnyBody) -> Answer:
    """POST /tokenize, TEI's or TGI's.

    TGI's if the model that is named generates, or if ``parameters`` is there, or if only
    generators are served.
    """
    fields = _fields(request)
    models = request.gateway.models
    named = request.model or fields.get("model")
    found = models.named(named) if isinstance(named, str) else None
    task = found.task if found else None
    if task is None and "parameters" in fields:
        task = "generate"
    if task is None:
        default = models.default((*_ENCODERS, "generate"))
        task = default.task if default else "embed"
    if task == "generate" and isinstance(fields.get("inputs"), str):
        return await tgi.tokenize(request, read(tgi_body.GenerateBody, request.body))
    return await tei.tokenize(request, read(tei.TokenizeBody, request.body))


async def info(request: Request, body: None) -> Reply:
    """GET /info: a generator's as TGI's, another model's as TEI's; both if both are served."""
    models = request.gateway.models
    if request.model is not None:
        model = models.named(request.model)
        assert model is not None
        return reply(_info(request, model))
    first = models.default(("generate",)), models.default(_ENCODERS)
    found: dict[str, Any] = {}
    for model in first:
        if model is not None:
            found = {**_info(request, model), **found}
    if not found:
        raise NotReady("no server is ready")
    return reply({**found, "models": [m.name for m in models.all()]})


def _info(request: Request, model: ModelInfo) -> dict[str, Any]:
    facts = model.facts
    shared = {
        "model_id": model.model_id,
        "model_sha": facts.get("revision"),
        "model_dtype": facts.get("dtype"),
        "served_model_name": model.name,
        "max_concurrent_requests": facts.get("max_concurrent_requests"),
        "max_client_batch_size": request.gateway.settings.max_client_batch_size,
        "version": facts.get("version"),
        "sha": None,
        "docker_label": None,
    }
    if model.task == "generate":
        return {
            **shared,
            "model_pipeline_tag": "text-generation",
            "max_best_of": facts.get("max_best_of"),
            "max_stop_sequences": facts.get("max_stop_sequences"),
            "max_input_tokens": model.max_input_tokens,
            "max_total_tokens": facts.get("max_total_tokens"),
            "validation_workers": 1,
            "router": "atoll-gateway",
        }
    return {
        **shared,
        "model_type": _model_type(model),
        "max_input_length": model.max_input_tokens,
        "max_batch_tokens": facts.get("max_batch_tokens"),
        "max_batch_requests": facts.get("max_batch_requests"),
        "auto_truncate": facts.get("auto_truncate"),
        "tokenization_workers": facts.get("tokenization_workers"),
    }


def _model_type(model: ModelInfo) -> dict[str, Any]:
    if model.task in ("embed", "sparse"):
        return {"embedding": {"pooling": model.facts.get("pooling")}}
    labels = {
        "id2label": {str(i): name for i, name in enumerate(model.labels)},
        "label2id": {name: i for i, name in enumerate(model.labels)},
    }
    return {"reranker" if model.task == "rerank" else "classifier": labels}


async def health(request: Request, body: None) -> Reply:
    """GET /health: 200 while a server answers and has a model."""
    if not request.gateway.pool.is_ready:
        raise NotReady("unhealthy")
    return Reply(b"", content_type="text/plain")


async def live(request: Request, body: None) -> Reply:
    """GET /v1/health/live: this process answers."""
    return Reply(b"", content_type="text/plain")


async def metrics(request: Request, body: None) -> Reply:
    """GET /metrics."""
    return Reply(await request.gateway.metrics.page(), content_type=CONTENT_TYPE)


def _fields(request: Request) -> dict[str, Any]:
    try:
        found = orjson.loads(request.body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValidationError("the body must be a JSON object")
    return {name: value for name, value in found.items() if value is not None}
