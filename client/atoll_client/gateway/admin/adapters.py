"""vLLM's routes for LoRA adapters at run time.

Passed on to the launcher, which allows them to those who have the admin key or, with the setting
``allow_runtime_lora``, to everybody who may ask the models.
"""

from __future__ import annotations

import re
from typing import Any

import httpx
from pydantic import Field

from atoll_client import errors
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.launcher import connected
from atoll_client.gateway.core.schemas import Strict
from atoll_client.gateway.core.web import Request, Text

# What the launcher says of a model that is not there.
_UNKNOWN = re.compile(r"model '.*' is not loaded")
_KINDS: dict[int, type[errors.AtollError]] = {
    401: errors.Unauthorized, 403: errors.NotOffered, 503: errors.NotReady,
}  # fmt: skip


class LoadAdapterBody(Strict):
    """An adapter to load."""

    lora_name: str = Field(min_length=1, description="the name that requests give as the model")
    lora_path: str = Field(min_length=1, description="a folder on the server, or a hub id")
    load_inplace: bool = Field(False, description="in place of one of that name")
    model: str | None = Field(None, description="the generator, if there are several")


class UnloadAdapterBody(Strict):
    """An adapter to unload."""

    lora_name: str = Field(min_length=1)
    model: str | None = Field(None, description="the generator, if there are several")


async def load(request: Request, context: Context, body: LoadAdapterBody) -> Text:
    """Loads an adapter; it is a model of its own at once."""
    await _pass_on(request, context, "load", _dumped(body))
    return Text(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


async def unload(request: Request, context: Context, body: UnloadAdapterBody) -> Text:
    """Unloads an adapter; requests that have begun finish with it."""
    await _pass_on(request, context, "unload", _dumped(body))
    return Text(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _dumped(body: Strict) -> dict[str, Any]:
    """The fields that the table has; others are reported, or refused."""
    return body.model_dump(include={*type(body).model_fields}, exclude_none=True)


async def _pass_on(
    request: Request, context: Context, operation: str, body: dict[str, Any]
) -> None:
    """Raises AtollError: what the launcher says, and NotFound: there is no such adapter."""
    everybody_may = bool(context.settings.allow_runtime_lora)
    if everybody_may:
        context.keys.check(request.headers)
    # As it came: httpx takes bytes for what is not ASCII.
    headers = {b"authorization": request.headers.get("authorization", "").encode("latin-1")}
    path = f"/{'allowed' if everybody_may else 'keyed'}/admin/adapters/{operation}"
    async with connected(context.settings.admin_socket) as client:
        try:
            answer = await client.post(path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise errors.NotReady(f"the launcher does not answer: {error}") from error
    if answer.status_code == 200:
        # The next request may already ask for it.
        context.pool.renew(answer.json()["models"])
        await context.pool.refresh()
        return
    reason = str(answer.json().get("error"))
    if answer.status_code == 422 and reason.startswith("no model has an adapter"):
        raise errors.NotFound(f"The lora adapter '{body['lora_name']}' cannot be found.")
    if answer.status_code == 422 and _UNKNOWN.match(reason):
        raise errors.NotFound(reason)
    raise _KINDS.get(answer.status_code, errors.ValidationError)(reason)
