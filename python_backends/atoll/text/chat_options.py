"""A request's options for rendering its messages with the chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from atoll.errors import ValidationError
from atoll.text.chat_content import Message
from atoll.text.chat_history import parsed_arguments

# Marks the end of the message to continue. Its trailing space shows whether the template trims;
# transformers does the same.
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
# Variables that have their own inputs.
RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message"})
# Roles that every chat may use; a template may name more.
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
# For templates that have no place for tools, as in Text Generation Inference.
_TOOL_PROMPT = (
    "Functions that may be called are listed above. To call one, answer with a JSON object alone, "
    'of the form {"name": name of the function, "arguments": object of its arguments}.'
)


@dataclass(frozen=True)
class ChatOptions:
    """How messages become a prompt.

    continue_final_message: the prompt ends with the last message, which the model continues.
    variables: further variables for the template (``chat_template_kwargs``).
    tool_prompt: is added after the user's last message if there are tools.
    """

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    tool_prompt: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> ChatOptions:
        """Reads a request's options by name; None means the same as absent.

        Raises:
            ValidationError: an option has the wrong type, or two contradict each other.
        """
        flags = {}
        for name in ("add_generation_prompt", "continue_final_message"):
            flags[name] = values.get(name)
            if flags[name] is not None and not isinstance(flags[name], bool):
                raise ValidationError(f"{name} is {flags[name]!r}; expected true or false")
        goes_on = bool(flags["continue_final_message"])
        if goes_on and flags["add_generation_prompt"]:
            raise ValidationError(
                "continue_final_message and add_generation_prompt are true; a prompt ends with the "
                "final message or behind it"
            )
        variables = values.get("chat_template_kwargs") or {}
        if not isinstance(variables, dict):
            raise ValidationError(f"chat_template_kwargs is {variables!r}; expected an object")
        for name in sorted(RESERVED):
            if name in variables:
                raise ValidationError(f"chat_template_kwargs.{name} has a field of its own")
        prompt = values.get("tool_prompt")
        if prompt is not None and not isinstance(prompt, str):
            raise ValidationError(f"tool_prompt is {prompt!r}; expected text")
        generates = flags["add_generation_prompt"]
        return cls(not goes_on if generates is None else generates, goes_on, prompt, variables)

    def check(self, names: AbstractSet[str], own: AbstractSet[str]) -> None:
        """Raises ValidationError: a variable that the template does not read, or one of ``own``."""
        for name in self.variables:
            if name in own:
                raise ValidationError(
                    f"chat_template_kwargs.{name} has the name of a variable that chat templates "
                    "have anyway: it cannot be replaced"
                )
            if name not in names:
                known = ", ".join(sorted(names - RESERVED - own)) or "none"
                raise ValidationError(
                    f"chat_template_kwargs.{name}: the chat template reads no variable of this "
                    f"name; it reads: {known}"
                )

    def told_tools(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], has_place: bool
    ) -> list[Message]:
        """The messages; with tools and tool prompt if the template has no place for tools."""
        prompt = self.tool_prompt
        text = "" if prompt is None else f"\n---\n{prompt}"
        if not has_place:
            listed = json.dumps(list(tools), ensure_ascii=False)
            text = f"\n---\n{listed}\n{_TOOL_PROMPT if prompt is None else prompt}"
        if not text:
            return list(messages)
        asked = [i for i, message in enumerate(messages) if message.get("role") == "user"]
        return _extended(messages, asked[-1] if asked else len(messages) - 1, text)

    def tagged(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with a mark at the end of the last one, for ``cut``.

        Raises:
            ValidationError: there is nothing to continue.
        """
        content = messages[-1].get("content")
        if isinstance(content, str) or (isinstance(content, list) and content):
            return _extended(messages, len(messages) - 1, _TAG)
        raise ValidationError(
            f"continue_final_message is true, but messages[{len(messages) - 1}].content is "
            f"{content!r}"
        )

    def cut(self, rendered: str) -> str:
        """The prompt up to the end of the message that was tagged.

        Raises:
            ValidationError: the template has left the message out.
        """
        at = rendered.rfind(_TAG.strip())
        if at < 0:
            raise ValidationError(
                "continue_final_message is true, but the chat template leaves the final message out"
            )
        is_kept = rendered.startswith(_TAG, at)
        return rendered[:at] if is_kept else rendered[:at].rstrip()


def text_of(message: Message) -> str:
    """A message's content as one text."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def told_results(messages: Sequence[Message]) -> list[Message]:
    """The messages; results of tools that follow one another are one message of the user."""
    found: list[Message] = []
    is_open = False
    for message in messages:
        if message.get("role") != "tool":
            found.append(message)
            is_open = False
        elif is_open:
            found[-1] = {**found[-1], "content": f"{found[-1]['content']}\n{text_of(message)}"}
        else:
            found.append({"role": "user", "content": text_of(message)})
            is_open = True
    return found


def told_calls(message: Message) -> Message:
    """A message whose tool calls, if any, are in its content, in the form of ``_TOOL_PROMPT``."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        return message
    functions = [call.get("function", call) if isinstance(call, dict) else call for call in calls]
    written = "\n".join(
        json.dumps(
            {"name": one.get("name"), "arguments": parsed_arguments(one)}, ensure_ascii=False
        )
        if isinstance(one, dict)
        else str(one)
        for one in functions
    )
    content = message.get("content")
    if not content:
        return {**message, "content": written}
    return _extended([message], 0, f"\n{written}")[0]


def _extended(messages: Sequence[Message], index: int, text: str) -> list[Message]:
    """The messages with more text added to one of them."""
    found = list(messages)
    content = found[index].get("content")
    if isinstance(content, list):
        last = content[-1] if content else {"type": "text", "text": ""}
        more: Any = [*content[:-1], {**last, "text": f"{last.get('text') or ''}{text}"}]
    else:
        more = (content or "") + text
    found[index] = {**found[index], "content": more}
    return found
