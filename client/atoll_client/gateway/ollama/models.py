"""Ollama's lists of models, what one of them is, and what is not done to models here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, NoReturn, cast

from atoll_client.errors import NotFound, NotOffered, NotReady
from atoll_client.gateway.chat_formats.thinking import reasons
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.ollama import answers
from atoll_client.gateway.ollama.prompt import LATEST, untagged
from atoll_client.gateway.ollama.schemas import OllamaShowBody
from atoll_client.types import ModelInfo

# The version whose interface is followed. Clients use less of it if it is older.
_VERSION = "0.13.0"
_STARTED = datetime.now(timezone.utc).isoformat()
_NEVER = "9999-12-31T00:00:00+00:00"
# Ollama's names of number formats.
_FORMATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


async def tags(request: Request, context: Context, body: None) -> Reply[answers.OllamaModels]:
    """GET /api/tags: every model, and every LoRA adapter as a model of its own."""
    return reply({"models": [_listed(name, model) for name, model in _named(context)]})


async def processes(
    request: Request, context: Context, body: None
) -> Reply[answers.OllamaProcesses]:
    """GET /api/ps: the same models, since all of them are loaded."""
    found: list[answers.OllamaRunning] = []
    for name, model in _named(context):
        listed = _listed(name, model)
        found.append(
            {
                "name": listed["name"], "model": listed["model"], "size": listed["size"],
                "digest": listed["digest"], "details": listed["details"], "expires_at": _NEVER,
                "size_vram": 0, "context_length": _context_length(model),
            }
        )  # fmt: skip
    return reply({"models": found})


async def show(
    request: Request, context: Context, body: OllamaShowBody
) -> Reply[answers.OllamaShown]:
    """POST /api/show: one model."""
    model = _found(request, context, untagged(context, body.model or body.name))
    template = ""
    if model.facts.get("has_chat_template"):
        answer = await context.pool.ask(model.name, {"op": "chat_template"})
        template = cast(str, answer)
    family = _family(model)
    described: dict[str, Any] = {
        "general.architecture": family,
        "general.basename": model.public_id,
        f"{family}.context_length": _context_length(model),
    }
    if model.facts.get("dimensions"):
        described[f"{family}.embedding_length"] = model.facts["dimensions"]
    return reply(
        {
            "modelfile": "",
            "parameters": "",
            "template": template,
            "details": _details(model),
            "model_info": described,
            "capabilities": _capabilities(model),
            "modified_at": _STARTED,
        }
    )


async def version(request: Request, context: Context, body: None) -> Reply[answers.OllamaVersion]:
    """GET /api/version."""
    return reply({"version": _VERSION})


async def unavailable(request: Request, context: Context, body: None) -> NoReturn:
    """Refuses what changes the models of a server."""
    what = request.route.removeprefix("/api/").partition("/")[0]
    raise NotOffered(
        f"{what} is not offered: the models are those that the server was started with"
    )


def _found(request: Request, context: Context, name: str | None) -> ModelInfo:
    """The model of a name, else of the path, else the first one.

    Raises:
        NotFound: no such model. NotReady: no server is ready.
    """
    name = name or request.model
    found = context.models.named(name) if name else next(iter(context.models.all()), None)
    if found is None and not context.pool.is_ready:
        raise NotReady("no server is ready")
    if found is None:
        raise NotFound(f"model {name!r} is not served")
    return found


def _named(context: Context) -> Iterator[tuple[str, ModelInfo]]:
    """All models by their names with a tag, which clients expect."""
    for model in context.models.all():
        for name in (model.name, *model.adapters):
            yield name if ":" in name else name + LATEST, model


def _listed(name: str, model: ModelInfo) -> answers.OllamaModel:
    identity = f"{name}@{model.public_id}@{model.facts.get('revision')}"
    return {
        "name": name,
        "model": name,
        "modified_at": _STARTED,
        "size": 0,
        "digest": hashlib.sha256(identity.encode()).hexdigest(),
        "details": _details(model),
    }


def _details(model: ModelInfo) -> answers.OllamaDetails:
    dtype = str(model.facts.get("dtype") or "")
    return {
        "parent_model": "",
        "format": "gguf" if ".gguf" in model.model_id else "safetensors",
        "family": _family(model),
        "families": [_family(model)],
        "parameter_size": "",
        "quantization_level": _FORMATS.get(dtype, dtype),
    }


def _family(model: ModelInfo) -> str:
    return str(model.facts.get("model_type") or model.task)


def _context_length(model: ModelInfo) -> int:
    return int(model.facts.get("max_total_tokens") or model.max_input_tokens)


def _capabilities(model: ModelInfo) -> list[str]:
    if model.task != "generate":
        return ["embedding"] if "embed" in model.tasks else []
    found = ["completion"]
    if model.facts.get("has_chat_template"):
        found.append("tools")
    if reasons(model):
        found.append("thinking")
    return found
