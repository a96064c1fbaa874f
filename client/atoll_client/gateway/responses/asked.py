"""A request for a response, read: its conversation, the chat that it is, what is told of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from atoll_client.errors import EmptyInputError, ValidationError
from atoll_client.gateway.chat_formats.chat import Chat
from atoll_client.gateway.chat_formats.constraints import Constraint, json_schema
from atoll_client.gateway.chat_formats.tool_choice import ToolChoice
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.generation import given
from atoll_client.gateway.core.web import Request
from atoll_client.gateway.responses.answers import ModelResponse, ReasoningConfig
from atoll_client.gateway.responses.items import Item, check_items
from atoll_client.gateway.responses.messages import messages_of
from atoll_client.gateway.responses.namespaces import NamedTool, named_tools
from atoll_client.gateway.responses.parts import new_id
from atoll_client.gateway.responses.schemas import LOGPROBS, PromptFields, ResponseBody
from atoll_client.gateway.responses.store import Stored
from atoll_client.gateway.responses.stored_items import stored_item
from atoll_client.gateway.responses.tools import as_functions, read_choice
from atoll_client.tasks import Wanted
from atoll_client.types import ModelInfo

# Options that have the same names in the models.
_SAME_NAMES = (
    "frequency_penalty", "min_p", "presence_penalty", "repetition_penalty", "top_k", "top_p",
)  # fmt: skip


@dataclass(frozen=True)
class Conversation:
    """What the prompt is made of. items: the request's own input, as it is stored.

    session: by which several servers are chosen; of the response before, if there is no other.
    """

    owner: str
    session: str
    items: Sequence[dict[str, Any]]
    previous: Stored | None
    messages: list[dict[str, Any]]
    tools: tuple[NamedTool, ...]
    functions: list[dict[str, Any]]
    choice: ToolChoice | None

    @classmethod
    def read(cls, request: Request, context: Context, body: PromptFields) -> Conversation:
        """The conversation of a request.

        Raises:
            ValidationError: a field is wrong, or names what is not stored.
        """
        owner = context.keys.owner(request.headers)
        previous = _previous(context, owner, body.previous_response_id)
        items = _items(context, owner, body.input)
        if not items and previous is None:
            raise EmptyInputError.of("input", "cannot be empty")
        earlier = [] if previous is None else previous.conversation()
        read = [Item.model_validate(one) for one in (*earlier, *items)]
        tools = tuple(named_tools(body.tools or ()))
        functions = as_functions(tools)
        choice = read_choice(tools, functions, body.tool_choice)
        messages = messages_of(body.instructions, read)
        request.kept_session = "" if previous is None else previous.session
        session = request.session_name
        return cls(owner, session, items, previous, messages, tools, functions, choice)


@dataclass(frozen=True)
class Asked:
    """A request for a response. is_stored: whether the response will be."""

    body: ResponseBody
    chat: Chat
    conversation: Conversation
    is_stored: bool


def read_request(request: Request, context: Context, model: ModelInfo, body: ResponseBody) -> Asked:
    """The chat of a request.

    Raises:
        ValidationError: a field is wrong, or names what is not stored.
    """
    is_stored = not context.stored.is_closed and body.store is not False
    if body.store and context.stored.is_closed:
        raise ValidationError.of("store", "is true, but max_stored_responses is 0")
    if body.top_logprobs and not _has_logprobs(body):
        raise ValidationError.of("top_logprobs", f"needs `include` to have {LOGPROBS!r}")
    found = Conversation.read(request, context, body)
    chat = Chat.of(
        model,
        found.messages,
        found.functions,
        found.choice,
        _options(body, model, request),
        # Without the texts of its tokens, reasoning cannot be counted.
        Wanted(logprobs=_has_logprobs(body) or model.may_reason, num_cached_tokens=True),
        bound=_constraint(body),
        max_calls=1 if body.parallel_tool_calls is False else None,
    )
    return Asked(body, chat, found, is_stored)


def _previous(context: Context, owner: str, response_id: str | None) -> Stored | None:
    if response_id is None:
        return None
    found = context.stored.get(owner, response_id)
    if found is None:
        raise ValidationError(
            f"Previous response with id '{response_id}' not found.",
            param="previous_response_id", code="previous_response_not_found",
        )  # fmt: skip
    if found.response["status"] == "in_progress":
        raise ValidationError.of("previous_response_id", f"is {response_id!r}, which still runs")
    return found


def _items(context: Context, owner: str, given: str | list[Item] | None) -> list[dict[str, Any]]:
    """The request's own items, with those that it refers to in place."""
    if given is None:
        return []
    if isinstance(given, str):
        return [stored_item(Item(type="message", role="user", content=given))]
    check_items(given)
    found = []
    for index, item in enumerate(given):
        if item.kind != "item_reference":
            found.append(stored_item(item))
            continue
        referred = context.stored.item(owner, str(item.id))
        if referred is None:
            raise ValidationError(
                f"Item with id '{item.id}' not found.", param=f"input[{index}].id",
                code="invalid_value",
            )  # fmt: skip
        found.append(referred)
    return found


def _options(body: ResponseBody, model: ModelInfo, request: Request) -> dict[str, Any]:
    """The model's options. OpenAI's default temperature is 1."""
    temperature = 1.0 if body.temperature is None else body.temperature
    found = given(
        (
            ("temperature", temperature),
            ("do_sample", temperature > 0),
            ("seed", None if body.seed is None else body.seed % 2**63),
            ("stop", [body.stop] if isinstance(body.stop, str) else body.stop),
            ("adapter_id", next((n for n in _names(body, request) if n in model.adapters), None)),
            ("chat_template_kwargs", variables_of(body) or None),
            ("top_logprobs", body.top_logprobs or None),
            *((name, getattr(body, name)) for name in _SAME_NAMES),
        )
    )
    # None: up to the end of the context.
    return {**found, "max_tokens": body.max_output_tokens}


def variables_of(body: PromptFields) -> dict[str, Any]:
    """Variables of the chat template."""
    found = dict(body.chat_template_kwargs or {})
    if body.reasoning is not None and body.reasoning.effort is not None:
        found["reasoning_effort"] = body.reasoning.effort
    return found


def _names(body: ResponseBody, request: Request) -> tuple[str | None, ...]:
    return request.model, body.model


def _has_logprobs(body: ResponseBody) -> bool:
    return LOGPROBS in (body.include or ())


def _constraint(body: ResponseBody) -> Constraint | None:
    form = None if body.text is None else body.text.format
    if form is None:
        return None
    is_schema = form.type == "json_schema"
    if is_schema and (form.schema_ is None or form.name is None):
        missing = "name" if form.name is None else "schema"
        raise ValidationError(
            f"`text.format.{missing}`: Field required", param=f"text.format.{missing}",
            code="missing_required_parameter",
        )  # fmt: skip
    if not is_schema and form.schema_ is not None:
        raise ValidationError.of(
            "text.format.schema", f"is set, but `text.format.type` is {form.type!r}"
        )
    if form.schema_ is not None:
        return json_schema(form.schema_)
    return None if form.type == "text" else ("response_format", {"type": "json_object"})


def new_response(asked: Asked) -> ModelResponse:
    """The response before anything was generated."""
    body = asked.body
    choice, text = body.tool_choice, body.text
    form = None if text is None or text.format is None else text.format.given()
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "model": body.model or asked.chat.job.model.name,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": _reasoning(body),
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": asked.is_stored,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": form or {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto" if choice is None else choice if isinstance(choice, str)
        else choice.given(),
        "tools": [tool.given() for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
    }  # fmt: skip


def _reasoning(body: ResponseBody) -> ReasoningConfig:
    return {
        "effort": None if body.reasoning is None else body.reasoning.effort,
        "summary": wanted_summary(body),
    }


def wanted_summary(body: ResponseBody) -> str | None:
    """The kind of summary that is wanted; the older field has the same meaning."""
    options = body.reasoning
    return None if options is None else options.summary or options.generate_summary
