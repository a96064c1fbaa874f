"""Namespaces of tools: groups of functions and custom tools that have a name in common.

Models know functions alone. A grouped one is shown to them as ``group__name``, and its calls have
both names apart, as the request has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from atoll_client.errors import ValidationError
from atoll_client.gateway.responses.schemas import (
    GroupedTool,
    ResponseChoice,
    ResponseTool,
    ToolFormat,
)

_BETWEEN = "__"


class NamedTool(NamedTuple):
    """A function or a custom tool. field: where the request has it."""

    field: str
    tool: GroupedTool | ResponseTool
    namespace: ResponseTool | None = None

    @property
    def shown(self) -> str:
        """The name that the model is told."""
        return shown_name(None if self.namespace is None else self.namespace.name, self.tool.name)

    @property
    def description(self) -> str | None:
        """What the model is told of it: of the group, and of itself."""
        group = None if self.namespace is None else self.namespace.description
        return "\n".join(filter(None, (group, self.tool.description))) or None


def shown_name(namespace: str | None, name: str | None) -> str:
    """The name that the model is told of a tool."""
    return str(name) if namespace is None else f"{namespace}{_BETWEEN}{name}"


def named_tools(tools: Sequence[ResponseTool]) -> Iterator[NamedTool]:
    """The functions and custom tools of a request, those of groups among them.

    Raises:
        ValidationError: a tool has a field of another type, or a group is empty.
    """
    for index, tool in enumerate(tools):
        field = f"tools[{index}]"
        if tool.type != "namespace":
            check_unset(tool, field, ("tools",))
            yield NamedTool(field, tool)
            continue
        check_unset(tool, field, ("parameters", "format"))
        if tool.tools is None:
            raise ValidationError.of(f"{field}.tools", "is missing")
        for place, one in enumerate(tool.tools):
            yield NamedTool(f"{field}.tools[{place}]", one, tool)


def check_unset(
    one: GroupedTool | ResponseTool | ToolFormat | ResponseChoice, name: str, fields: Sequence[str]
) -> None:
    """Raises ValidationError: a field is set that belongs to another type."""
    for field in fields:
        if getattr(one, field) is not None:
            raise ValidationError.of(
                f"{name}.{field}", f"is set, but `{name}.type` is {one.type!r}",
                code="unknown_parameter",
            )  # fmt: skip
