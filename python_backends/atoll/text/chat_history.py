"""Earlier calls and reasoning, as a chat template reads them.

Clients send OpenAI's messages: arguments as JSON text, several calls in one message, the reasoning
in ``reasoning_content`` or ``reasoning``. What a template reads instead is determined from its
syntax tree:

    arguments as a text, if it joins them to other texts (DeepSeek), otherwise as an object
    reasoning under the name that it reads (``thinking``: gpt-oss)
    a message for each call, each followed by its result, if it reads the first one only (gpt-oss)
    no content, where it expects none (DeepSeek R1), otherwise an empty text
    content before calls as a message of its own, if it reads calls only where content is none
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import nodes

from atoll.text.chat_content import Message

_REASONING = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True)
class HistoryForm:
    """See the module.

    reasoning: None: the template reads none. has_calls_alone: it reads calls only in messages
        without content.
    """

    has_text_arguments: bool
    reasoning: str | None
    reads_first_call: bool
    expects_none: bool
    has_calls_alone: bool

    @classmethod
    def of(cls, tree: nodes.Template) -> HistoryForm:
        """The form that the template's code expects."""
        words = {n.value for n in tree.find_all(nodes.Const)} | {
            n.attr for n in tree.find_all(nodes.Getattr)
        }
        loops = _loops([tree])
        unsaid = [one for one in tree.find_all(nodes.If) if _expects_none(one.test)]
        alone = _loops([part for one in unsaid for part in one.body])
        takes_first = any(_is_first_call(one) for one in tree.find_all(nodes.Getitem))
        return cls(
            has_text_arguments=_joins_arguments(tree),
            reasoning=next((name for name in _REASONING if name in words), None),
            reads_first_call=takes_first and not loops,
            expects_none=bool(unsaid),
            has_calls_alone=bool(loops) and loops == alone,
        )

    def given(self, messages: Sequence[Message]) -> list[Message]:
        """The messages in the form that the template expects."""
        found = [
            one for m in messages for one in (self._of(m) if m.get("role") == "assistant" else [m])
        ]
        return list(_one_call_each(found)) if self.reads_first_call else found

    def _of(self, message: Message) -> list[Message]:
        found = dict(message)
        calls = found.pop("tool_calls", None)
        text = next((found[name] for name in _REASONING if found.get(name)), None)
        if self.reasoning is not None and text is not None:
            found.setdefault(self.reasoning, text)
        if not calls:
            return [found]
        called = {**found, "tool_calls": [self._call(call) for call in calls]}
        if found.get("content"):
            return [found, {**called, "content": None}] if self.has_calls_alone else [called]
        return [{**called, "content": None} if self.expects_none else called]

    def _call(self, call: Any) -> Any:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            return call
        arguments = function.get("arguments")
        if self.has_text_arguments and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        elif not self.has_text_arguments:
            arguments = parsed_arguments(function)
        return {"type": "function", **call, "function": {**function, "arguments": arguments}}


def parsed_arguments(function: Mapping[str, Any]) -> Any:
    """A call's arguments as an object, parsed if they are JSON text."""
    found = function.get("arguments")
    try:
        return json.loads(found) if isinstance(found, str) else found
    except ValueError:
        return found


def _one_call_each(messages: Sequence[Message]) -> Iterator[Message]:
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        calls = message.get("tool_calls") or ()
        if not calls:
            yield message
            continue
        results = []
        while at < len(messages) and messages[at].get("role") == "tool":
            results.append(messages[at])
            at += 1
        yield from _apart(message, calls, results)


def _apart(message: Message, calls: Sequence[Any], results: list[Message]) -> Iterator[Message]:
    """A message's calls, each with its result. The template has one text before a call."""
    thought, content = message.get("thinking"), message.get("content")
    if thought and content:
        message = {**message, "thinking": f"{thought}\n\n{content}", "content": ""}
    for index, call in enumerate(calls):
        first = message if index == 0 else {"role": message["role"], "content": ""}
        yield {**first, "tool_calls": [call]}
        call_id = call.get("id") if isinstance(call, dict) else None
        named = [one for one in results if one.get("tool_call_id") == call_id]
        own = named[:1] or results[:1]
        results = [one for one in results if one not in own]
        yield from own
    yield from results


def _joins_arguments(tree: nodes.Template) -> bool:
    """Whether arguments are part of a text as they are, and nothing else is done with them."""
    joined: list[nodes.Node] = [side for n in tree.find_all(nodes.Add) for side in _sides(n)]
    joined += [one for n in tree.find_all(nodes.Concat) for one in n.nodes]
    joined += [one for n in tree.find_all(nodes.Output) for one in n.nodes]
    used: list[nodes.Node | None] = [n.node for n in tree.find_all(nodes.Filter)]
    used += [n.node for n in tree.find_all(nodes.Test)]
    used += [n.node for n in tree.find_all(nodes.Getattr)]
    used += [n.iter for n in tree.find_all(nodes.For)]
    return any(_is_member(n, "arguments") for n in joined) and not any(
        _is_member(n, "arguments") for n in used
    )


def _sides(node: nodes.BinExpr) -> tuple[nodes.Node, nodes.Node]:
    return node.left, node.right


def _loops(parts: Sequence[nodes.Node]) -> set[int]:
    """The loops over a message's calls, by the ids of their nodes."""
    inner = [loop for part in parts for loop in part.find_all(nodes.For)]
    found = [*(part for part in parts if isinstance(part, nodes.For)), *inner]
    return {id(loop) for loop in found if _names_calls(loop.iter)}


def _names_calls(node: nodes.Node) -> bool:
    """Whether an expression is a message's calls, or made from them."""
    kinds = (nodes.Getattr, nodes.Getitem)
    members: list[nodes.Node] = [node, *node.find_all(kinds)]
    is_name = isinstance(node, nodes.Name) and node.name == "tool_calls"
    return is_name or any(_is_member(one, "tool_calls") for one in members)


def _expects_none(test: nodes.Node) -> bool:
    """Whether a condition can only be true for a message without content."""
    if isinstance(test, nodes.And):
        return _expects_none(test.left) or _expects_none(test.right)
    return isinstance(test, nodes.Test) and test.name == "none" and _is_member(test.node, "content")


def _is_first_call(node: nodes.Getitem) -> bool:
    is_first = isinstance(node.arg, nodes.Const) and node.arg.value == 0
    return is_first and _is_member(node.node, "tool_calls")


def _is_member(node: nodes.Node | None, name: str) -> bool:
    """Whether an expression is ``x.name`` or ``x["name"]``."""
    if isinstance(node, nodes.Getattr):
        return node.attr == name
    return (
        isinstance(node, nodes.Getitem)
        and isinstance(node.arg, nodes.Const)
        and node.arg.value == name
    )
