"""The form in which a chat template accepts the content of messages: as text, or as parts.

Determined from the template's syntax tree, as in vLLM: if content is looped over, or indexed by a
number, it is accepted as parts; if it never is, or if the template tests whether it is a string, it
is accepted as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import nodes

from atoll.errors import ValidationError

Message = Mapping[str, Any]
_STRING_TESTS = ("string", "mapping", "sequence", "iterable")


@dataclass(frozen=True)
class ContentForm:
    """The forms of ``message.content`` that a template accepts; at least one of them."""

    takes_text: bool
    takes_parts: bool

    @classmethod
    def of(cls, tree: nodes.Template) -> ContentForm:
        """The form that the template's code expects."""
        names = _names(tree)
        takes_parts = any(_is_content(one, names) for one in _taken_apart(tree))
        tested = (test.node for test in tree.find_all(nodes.Test) if test.name in _STRING_TESTS)
        asks = any(_is_content(one, names) for one in tested)
        return cls(takes_text=asks or not takes_parts, takes_parts=takes_parts)

    def given(self, index: int, message: Any) -> dict[str, Any]:
        """A message in the form that the template accepts.

        Raises:
            ValidationError: not an object with a role, or content that is not text; names the part.
        """
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValidationError(
                f"messages[{index}] is {message!r}; expected an object with a role"
            )
        content = message.get("content")
        if isinstance(content, list):
            for place, part in enumerate(content):
                _check(f"messages[{index}].content[{place}]", part)
            return message if self.takes_parts else as_text(message)
        if content is not None and not isinstance(content, str):
            raise ValidationError(f"messages[{index}].content is {content!r}; expected text")
        if self.takes_text:
            return {**message, "content": content or ""}
        return {**message, "content": [{"type": "text", "text": content}] if content else []}


def as_text(message: Message) -> dict[str, Any]:
    """The message with its parts, if any, joined."""
    content = message["content"]
    is_text = isinstance(content, str)
    return {**message, "content": content if is_text else "".join(p["text"] for p in content)}


def _check(name: str, part: Any) -> None:
    kind = part.get("type") if isinstance(part, dict) else part
    if kind != "text":
        raise ValidationError(f"{name} is of type {kind!r}; only parts of type text are allowed")
    if not isinstance(part.get("text"), str):
        raise ValidationError(f"{name}.text is {part.get('text')!r}; expected text")


def _taken_apart(tree: nodes.Template) -> Iterator[nodes.Node]:
    """Expressions whose elements are accessed one by one."""
    for loop in tree.find_all(nodes.For):
        yield loop.iter
    methods = {id(call.node) for call in tree.find_all(nodes.Call)}
    members: list[nodes.Getitem | nodes.Getattr] = [*tree.find_all(nodes.Getitem)]
    members += tree.find_all(nodes.Getattr)
    for member in members:
        # content[0]["text"] belongs to a part; a character of a text only has methods.
        first = member.node
        if isinstance(first, nodes.Getitem) and id(member) not in methods and _is_number(first.arg):
            yield first.node


def _is_number(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, int)


def _names(tree: nodes.Template) -> set[str]:
    """Variables that hold a message's content, and macro parameters that receive it."""
    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    names: set[str] = set()
    while True:
        found = set(names)
        for assignment in tree.find_all(nodes.Assign):
            target = assignment.target
            # Mistral's older templates read calls from the content of messages of a role for them.
            if isinstance(target, nodes.Name) and target.name != "tool_calls":
                found |= {target.name} if _is_content(assignment.node, names) else set()
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name in macros:
                found |= _given(call, macros[call.node.name], names)
        if found == names:
            return names
        names = found


def _given(call: nodes.Call, macro: nodes.Macro, names: set[str]) -> set[str]:
    pairs = list(zip((arg.name for arg in macro.args), call.args, strict=False))
    pairs += [(keyword.key, keyword.value) for keyword in call.kwargs]
    return {name for name, value in pairs if _is_content(value, names)}


def _is_content(node: nodes.Node, names: set[str]) -> bool:
    """Whether an expression is a message's content, unchanged or passed through a filter."""
    if isinstance(node, nodes.Name):
        return node.name in names
    if isinstance(node, nodes.Getitem):
        if isinstance(node.arg, nodes.Slice):
            return _is_content(node.node, names)
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Call):
        return _is_get(node)
    if isinstance(node, (nodes.Filter, nodes.Test)):
        return node.node is not None and _is_content(node.node, names)
    if isinstance(node, nodes.CondExpr):
        return any(_is_content(one, names) for one in (node.expr1, node.expr2) if one is not None)
    if isinstance(node, nodes.Or):
        return _is_content(node.left, names) or _is_content(node.right, names)
    return False


def _is_get(call: nodes.Call) -> bool:
    """``message.get("content")``."""
    is_get = isinstance(call.node, nodes.Getattr) and call.node.attr == "get"
    first: Sequence[nodes.Expr] = call.args[:1]
    return is_get and all(isinstance(a, nodes.Const) and a.value == "content" for a in first)
