"""Routes that more than one interface has: what they do is read from the body and the models."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from atoll_client import scores, tasks
from atoll_client.errors import NotReady, ValidationError
from atoll_client.gateway.core import encoders
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.encoders import check_batch
from atoll_client.gateway.core.fields import NoEffect, Refused
from atoll_client.gateway.core.metrics import CONTENT_TYPE
from atoll_client.gateway.core.schemas import Strict, read
from atoll_client.gateway.core.web import Handler, Reply, Request, nothing, reply
from atoll_client.gateway.json_text import parse
from atoll_client.gateway.openai import chat as openai_chat
from atoll_client.gateway.openai import completions as openai_completions
from atoll_client.gateway.tei import rerankers, rerankers_schemas
from atoll_client.gateway.tei import routes as tei
from atoll_client.gateway.tei import schemas as tei_body
from atoll_client.gateway.tgi import routes as tgi
from atoll_client.gateway.tgi import schemas as tgi_body
from atoll_client.types import ModelInfo

_BESIDE = "truncate, truncation_direction and raw_scores stand beside inputs"
# What only a generator's request, or only an encoder's, has.
_GENERATOR_FIELDS = ("stream", "messages", "prompt")
_ENCODER_FIELDS = (
    "truncate", "truncation_direction", "normalize", "prompt_name", "dimensions", "raw_scores",
)  # fmt: skip


class AnyBody(BaseModel):
    """A body whose kind is found out by the route."""

    model_config = ConfigDict(extra="allow")


class ClassificationParameters(Strict):
    """``parameters`` as Hugging Face's clients send them."""

    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    top_k: int | None = Field(default=None, ge=1)

    candidate_labels: Annotated[Any, Refused("labels are those of the model")] = None
    hypothesis_template: Annotated[Any, Refused("labels are those of the model")] = None
    max_length: Annotated[Any, Refused(_BESIDE)] = None
    multi_label: Annotated[Any, Refused("function_to_apply says it")] = None
    padding: Annotated[Any, NoEffect("texts are never padded")] = None
    raw_scores: Annotated[Any, Refused(_BESIDE)] = None
    return_all_scores: Annotated[Any, Refused("top_k says it", (True,))] = None
    truncate: Annotated[Any, Refused(_BESIDE)] = None
    truncation: Annotated[Any, Refused(_BESIDE)] = None


class ClassificationBody(tei_body.PredictBody):
    """POST / of a classifier."""

    parameters: ClassificationParameters = Field(default_factory=ClassificationParameters)


class Kind(NamedTuple):
    """What a body turned out to be, and whose errors its sender reads."""

    handler: Handler
    body: type[BaseModel]
    dialect: str


async def root(request: Request, context: Context, body: AnyBody) -> Response:
    """POST / and /invocations: by the body's shape, then by the models served."""
    return await _answer(request, context, kind_of(request, context, _fields(request)))


async def _answer(request: Request, context: Context, kind: Kind) -> Response:
    # Errors and metrics are those of the interface that was meant.
    request.dialect = kind.dialect
    return await kind.handler(request, context, read(request, context, kind.body))


def kind_of(request: Request, context: Context, fields: dict[str, Any]) -> Kind:
    """What POST / does with a body.

    Raises:
        NotReady: nothing is served that could tell.
    """
    inputs = fields.get("inputs")
    if "messages" in fields:
        return Kind(openai_chat.chat, openai_chat.ChatBody, "openai")
    if "prompt" in fields:
        return Kind(openai_completions.completions, openai_completions.CompletionsBody, "openai")
    if "query" in fields:
        return _rerank_kind(fields)
    if isinstance(inputs, dict) and "source_sentence" in inputs:
        return Kind(tei.similarity, tei_body.SimilarityBody, "tei")
    task = _task(request, context, fields)
    if task == "generate":
        return Kind(tgi.compatible, tgi_body.GenerateBody, "tgi")
    if task in ("classify", "rerank"):
        return Kind(classification, ClassificationBody, "tei")
    if task == "sparse":
        return Kind(tei.embed_sparse, tei_body.EmbedSparseBody, "tei")
    return Kind(tei.embed, tei_body.EmbedBody, "tei")


def _rerank_kind(fields: dict[str, Any]) -> Kind:
    """TEI says ``texts``, Cohere ``documents``."""
    if "documents" in fields:
        return Kind(rerankers.rerank, rerankers_schemas.CohereBody, "openai")
    return Kind(tei.rerank, tei_body.RerankBody, "tei")


def _task(request: Request, context: Context, fields: dict[str, Any]) -> str:
    """The task of the model that is named, else what the fields suggest, else the first served."""
    models = context.models
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
    order = ("generate",) if is_generator and not is_encoder else tasks.ENCODER_TASKS
    model = models.default((*order, *tasks.ENCODER_TASKS, "generate"))
    if model is None:
        raise NotReady("no server is ready")
    return model.task


async def classification(request: Request, context: Context, body: ClassificationBody) -> Reply:
    """POST / of a classifier: as /predict, but always nested, as Hugging Face's clients read it."""
    model = context.find(request, body.model, ("classify", "rerank"))
    pairs, _ = tei.pairs_of(body.inputs)
    check_batch(request, context, len(pairs), model)
    wanted = body.parameters
    logits, _ = await tei.logits_of(request, context, model, pairs, body)
    asked = "identity" if wanted.function_to_apply == "none" else wanted.function_to_apply
    activation = asked or scores.activation_of(model, logits.shape[-1], body.raw_scores)
    rows = scores.of_labels(logits, activation)
    return reply([tei.labels_of(model, row)[: wanted.top_k] for row in rows])


async def rerank(request: Request, context: Context, body: AnyBody) -> Response:
    """POST /rerank, TEI's or Cohere's."""
    return await _answer(request, context, _rerank_kind(_fields(request)))


async def tokenize(request: Request, context: Context, body: AnyBody) -> Response:
    """POST /tokenize, TEI's or TGI's.

    TGI's if the model that is named generates, or if ``parameters`` is there, or if only
    generators are served.
    """
    fields = _fields(request)
    models = context.models
    named = request.model or fields.get("model")
    found = models.named(named) if isinstance(named, str) else None
    task = found.task if found else None
    if task is None and "parameters" in fields:
        task = "generate"
    if task is None:
        default = models.default((*tasks.ENCODER_TASKS, "generate"))
        task = default.task if default else "embed"
    if task == "generate" and isinstance(fields.get("inputs"), str):
        return await _answer(request, context, Kind(tgi.tokenize, tgi_body.GenerateBody, "tgi"))
    return await _answer(request, context, Kind(tei.tokenize, tei_body.TokenizeBody, "tei"))


async def info(request: Request, context: Context, body: None) -> Reply:
    """GET /info: a generator's as TGI's, another model's as TEI's; both if both are served."""
    models = context.models
    if request.model is not None:
        model = models.named(request.model)
        assert model is not None
        return reply(_info(context, model))
    first = models.default(("generate",)), models.default(tasks.ENCODER_TASKS)
    found: dict[str, Any] = {}
    for model in first:
        if model is not None:
            found = {**_info(context, model), **found}
    if not found:
        raise NotReady("no server is ready")
    return reply({**found, "models": [m.name for m in models.all()]})


def _info(context: Context, model: ModelInfo) -> dict[str, Any]:
    facts = model.facts
    shared = {
        "model_id": model.public_id,
        "model_sha": facts.get("revision"),
        "model_dtype": facts.get("dtype"),
        "served_model_name": model.name,
        "max_concurrent_requests": facts.get("max_concurrent_requests"),
        "max_client_batch_size": encoders.batch_limit(context, model),
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
        pooling = "splade" if model.task == "sparse" else model.facts.get("pooling")
        return {"embedding": {"pooling": pooling}}
    labels = {
        "id2label": {str(i): name for i, name in enumerate(model.labels)},
        "label2id": {name: i for i, name in enumerate(model.labels)},
    }
    return {"reranker" if model.task == "rerank" else "classifier": labels}


async def health(request: Request, context: Context, body: None) -> Reply:
    """GET /health: 200 while a server answers and has a model."""
    if not context.pool.is_ready:
        raise NotReady("unhealthy")
    return nothing()


async def live(request: Request, context: Context, body: None) -> Reply:
    """GET /v1/health/live: this process answers."""
    return nothing()


async def metrics(request: Request, context: Context, body: None) -> Reply:
    """GET /metrics."""
    return Reply(await context.metrics.page(), media_type=CONTENT_TYPE)


def _fields(request: Request) -> dict[str, Any]:
    found = parse(request.raw)
    if not isinstance(found, dict):
        raise ValidationError("the body must be a JSON object")
    return {name: value for name, value in found.items() if value is not None}
