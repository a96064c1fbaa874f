"""Google Vertex AI's interface, as TEI and TGI offer it: several requests in one body.

Each instance is a body of POST /. Its prediction is TEI's response, or the text of a generator.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from atoll_client.errors import EmptyInputError
from atoll_client.gateway import shape_routing
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.encoders import batch_limit, check_batch
from atoll_client.gateway.core.fields import refused
from atoll_client.gateway.core.route import Handler
from atoll_client.gateway.core.schemas import Strict
from atoll_client.gateway.core.web import Reply, Request, dump, reply
from atoll_client.gateway.tei import routes as tei
from atoll_client.gateway.tei.answers import Predictions


class VertexBody(Strict):
    """POST /vertex."""

    instances: list[dict[str, Any]]

    parameters: Any = refused("each instance has its own", {})


async def vertex(request: Request, context: Context, body: VertexBody) -> Reply[Predictions]:
    """A prediction for each instance; if one fails, the others are cancelled."""
    if not body.instances:
        raise EmptyInputError("`instances` cannot be empty")
    # Each instance may name another model.
    models = context.models.all()
    model = max(models, key=lambda one: batch_limit(context, one), default=None)
    check_batch(request, context, len(body.instances), model)
    work = [asyncio.ensure_future(_predict(request, context, one)) for one in body.instances]
    try:
        return reply({"predictions": list(await asyncio.gather(*work))})
    finally:
        for task in work:
            task.cancel()


async def _predict(request: Request, context: Context, instance: dict[str, Any]) -> Any:
    # A prediction is never streamed.
    instance = {name: value for name, value in instance.items() if name != "stream"}
    own = request.part(dump(instance))
    kind = shape_routing.kind_of(own, context, instance)
    # Labels are nested only for the clients of POST /.
    handler: Handler = tei.predict if kind.handler is shape_routing.classification else kind.handler
    request.dialect = own.dialect = kind.dialect
    answer = await handler(own, context, kind.read(own, context))
    assert isinstance(answer, Reply), "without `stream`, a response is complete"
    return _shortened(orjson.loads(answer.body))


def _shortened(found: Any) -> Any:
    """Only the text of a generator's response; other responses as they are."""
    if isinstance(found, dict) and found.get("choices"):
        choice = found["choices"][0]
        return choice["message"]["content"] if "message" in choice else choice["text"]
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], dict):
        return found[0].get("generated_text", found)
    return found
