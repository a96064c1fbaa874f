"""Routes that several interfaces share: the body and the served models decide what they do."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from atoll_client import scores, tasks
from atoll_client.errors import NotReady, ValidationError
from atoll_client.gateway.core import encoders
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.encoders import Encoder, check_batch
from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.metrics import CONTENT_TYPE
from atoll_client.gateway.core.route import Handler, body_of
from atoll_client.gateway.core.schemas import Strict, read
from atoll_client.gateway.core.web import Reply, Request, Text, nothing, reply
from atoll_client.gateway.json_text import parse
from atoll_client.gateway.openai import chat as openai_chat
from atoll_client.gateway.openai import completions as openai_completions
from atoll_client.gateway.openai import tokenization
from atoll_client.gateway.tei import inference, rerankers, token_classifiers
from atoll_client.gateway.tei import routes as tei
from atoll_client.gateway.tei.answers import Info, Prediction
from atoll_client.gateway.tei.schemas import EntityOptions, PredictBody
from atoll_client.gateway.tgi import routes as tgi
from atoll_client.types import ModelInfo

_BESIDE = "truncate, truncation_direction and raw_scores are fields next to inputs"
# Fields that only requests to generators, or only those to encoders, have.
_GENERATOR_FIELDS = ("stream", "messages", "prompt")
_ENCODER_FIELDS = (
    "truncate", "truncation_direction", "normalize", "prompt_name", "dimensions", "raw_scores",
)  # fmt: skip


class AnyBody(BaseModel):
    """A body of any kind, which the handler tells from its fields."""

    model_config = ConfigDict(extra="allow")


class ClassificationParameters(Strict):
    """``parameters`` as Hugging Face's clients send them."""

    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    top_k: int | None = Field(default=None, ge=1)

    candidate_labels: Any = refused("labels are those of the model")
    hypothesis_template: Any = refused("labels are those of the model")
    max_length: Any = refused(_BESIDE)
    multi_label: Any = refused("function_to_apply has this meaning")
    padding: Any = no_effect("texts are never padded")
    raw_scores: Any = refused(_BESIDE)
    return_all_scores: Any = refused("top_k has this meaning", True)
    truncate: Any = refused(_BESIDE)
    truncation: Any = refused(_BESIDE)


class ClassificationBody(PredictBody):
    """POST / of a classifier."""

    parameters: ClassificationParameters = Field(default_factory=ClassificationParameters)


class Kind(NamedTuple):
    """The handler of a body, and the dialect of its errors."""

    handler: Handler
    dialect: str

    def read(self, request: Request, context: Context) -> Any:
        """The request's body, checked. Raises as ``schemas.read``."""
        body = body_of(self.handler)
        assert body is not None
        return read(request, context, body)


async def root(request: Request, context: Context, body: AnyBody) -> Response:
    """POST / and /invocations: by the fields of the body, then by the served models."""
    return await _answer(request, context, kind_of(request, context, _fields(request)))


async def _answer(request: Request, context: Context, kind: Kind) -> Response:
    # For errors and metrics.
    request.dialect = kind.dialect
    return await kind.handler(request, context, kind.read(request, context))


def kind_of(request: Request, context: Context, fields: dict[str, Any]) -> Kind:
    """What POST / does with a body.

    Raises:
        NotReady: it depends on the served models, and there are none.
    """
    inputs = fields.get("inputs")
    if "messages" in fields:
        return Kind(openai_chat.chat, "openai")
    if "prompt" in fields:
        return Kind(openai_completions.completions, "openai")
    if "query" in fields:
        return _rerank_kind(fields)
    if isinstance(inputs, dict) and "source_sentence" in inputs:
        return Kind(tei.similarity, "tei")
    task = _task(request, context, fields)
    if task == "generate":
        return Kind(tgi.compatible, "tgi")
    if task in ("classify", "rerank"):
        return Kind(classification, "tei")
    if task == token_classifiers.TASK:
        return Kind(token_classifiers.token_classification, "tei")
    if task == "sparse":
        return Kind(tei.embed_sparse, "tei")
    if task == "multi_vector":
        return Kind(tei.embed_all, "tei")
    return Kind(tei.embed, "tei")


def _rerank_kind(fields: dict[str, Any]) -> Kind:
    """TEI's field is ``texts``, Cohere's ``documents``."""
    if "documents" in fields:
        return Kind(rerankers.rerank, "openai")
    return Kind(tei.rerank, "tei")


def _task(request: Request, context: Context, fields: dict[str, Any]) -> str:
    """The task of the named model, else of the first model that suits the fields."""
    found = _named(request, context, fields)
    if found is not None:
        return found.task
    found_in = fields.get("parameters")
    parameters = found_in if isinstance(found_in, dict) else {}
    if (fields.keys() | parameters.keys()) & EntityOptions.model_fields.keys():
        return token_classifiers.TASK
    is_generator = any(name in fields for name in _GENERATOR_FIELDS) or (
        bool(parameters) and not parameters.keys() & {"function_to_apply"}
    )
    is_encoder = any(name in fields for name in _ENCODER_FIELDS) or isinstance(
        fields.get("inputs"), list
    )
    order = ("generate",) if is_generator and not is_encoder else tasks.ENCODER_TASKS
    model = context.models.default((*order, *tasks.ANY_TASK))
    if model is None:
        raise NotReady("no server is ready")
    return model.task


def _named(request: Request, context: Context, fields: dict[str, Any]) -> ModelInfo | None:
    """The model of the path or of the field ``model``."""
    name = request.model or fields.get("model")
    return context.models.named(name) if isinstance(name, str) else None


async def classification(
    request: Request, context: Context, body: ClassificationBody
) -> Reply[list[list[Prediction]]]:
    """POST / of a classifier: like /predict, but always nested, for Hugging Face's clients."""
    model = context.find(request, body.model, ("classify", "rerank"))
    inference.check_labels(body)
    pairs, _ = inference.pairs_of(body.inputs)
    check_batch(request, context, len(pairs), model)
    wanted = body.parameters
    logits, _ = await inference.logits_of(Encoder(request, context, model), pairs, body)
    asked = "identity" if wanted.function_to_apply == "none" else wanted.function_to_apply
    activation = asked or scores.activation_of(model, logits.shape[-1], body.raw_scores)
    rows = scores.of_labels(logits, activation)
    return reply([inference.labels_of(model, row)[: wanted.top_k] for row in rows])


async def rerank(request: Request, context: Context, body: AnyBody) -> Response:
    """POST /rerank of TEI or Cohere."""
    return await _answer(request, context, _rerank_kind(_fields(request)))


async def tokenize(request: Request, context: Context, body: AnyBody) -> Response:
    """POST /tokenize of TEI, TGI or vLLM.

    vLLM's if the body has ``prompt`` or ``messages``. TGI's if the named model generates, if the
    body has ``parameters``, or if only generators are served.
    """
    fields = _fields(request)
    if "inputs" not in fields and "messages" in fields:
        return await _answer(request, context, Kind(tokenization.tokenize_chat, "openai"))
    if "inputs" not in fields and "prompt" in fields:
        return await _answer(request, context, Kind(tokenization.tokenize_prompt, "openai"))
    model = _named(request, context, fields)
    if model is None and "parameters" not in fields:
        model = context.models.default(tasks.ANY_TASK)
    task = model.task if model else "generate" if "parameters" in fields else "embed"
    if task == "generate" and isinstance(fields.get("inputs"), str):
        return await _answer(request, context, Kind(tgi.tokenize, "tgi"))
    return await _answer(request, context, Kind(tei.tokenize, "tei"))


async def info(request: Request, context: Context, body: None) -> Reply[Info]:
    """GET /info: TGI's fields for a generator, TEI's for an encoder, both if both are served. A
    model that transcribes has those that both have."""
    models = context.models
    if request.model is not None:
        model = models.named(request.model)
        assert model is not None
        return reply(_info(context, model))
    first = [models.default(kinds) for kinds in (tasks.ENCODER_TASKS, ("generate",))]
    found = [_info(context, model) for model in first if model is not None]
    if not found and (model := models.default(("transcribe",))) is not None:
        found = [_info(context, model)]
    if not found:
        raise NotReady("no server is ready")
    return reply({**found[0], **found[-1], "models": [m.name for m in models.all()]})


def _info(context: Context, model: ModelInfo) -> Info:
    facts = model.facts
    shared: Info = {
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
    if model.task == "transcribe":
        return {**shared, "model_pipeline_tag": "automatic-speech-recognition"}
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
    if model.task in ("embed", "sparse", "multi_vector"):
        pooling = "splade" if model.task == "sparse" else model.facts.get("pooling")
        return {"embedding": {"pooling": pooling}}
    labels = {
        "id2label": {str(i): name for i, name in enumerate(model.labels)},
        "label2id": {name: i for i, name in enumerate(model.labels)},
    }
    return {"reranker" if model.task == "rerank" else "classifier": labels}


async def health(request: Request, context: Context, body: None) -> Text:
    """GET /health: 200 as long as a server is reachable and has a model."""
    if not context.pool.is_ready:
        raise NotReady("unhealthy")
    return nothing()


async def live(request: Request, context: Context, body: None) -> Text:
    """GET /v1/health/live: 200 as long as this process runs."""
    return nothing()


async def metrics(request: Request, context: Context, body: None) -> Text:
    """GET /metrics."""
    return Text(await context.metrics.page(), media_type=CONTENT_TYPE)


def _fields(request: Request) -> dict[str, Any]:
    found = parse(request.raw)
    if not isinstance(found, dict):
        raise ValidationError("the body must be a JSON object")
    return {name: value for name, value in found.items() if value is not None}
