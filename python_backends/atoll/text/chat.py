"""Chat messages to a prompt, with the checkpoint's own jinja template in a sandbox.

Offers templates what transformers offers them: ``raise_exception``, ``strftime_now``, ``tojson``
without HTML escapes, loop controls, and the ``generation`` block.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from atoll.errors import ConfigError, ValidationError
from atoll.text.tokenizer import Tokenizer

Message = Mapping[str, Any]
# transformers writes the first; older versions of its documentation name the second.
TEMPLATE_FOLDERS = ("additional_chat_templates", "chat_templates")


class ChatTemplate:
    """A compiled template. Of named variants, "default" and "tool_use" are used."""

    def __init__(self, variants: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals.update(raise_exception=_raise, strftime_now=_now)
        try:
            self._variants = {k: environment.from_string(v) for k, v in variants.items()}
        except jinja2.TemplateError as error:
            raise ConfigError(f"the chat template cannot be compiled: {error}") from error
        self._special_tokens = dict(special_tokens)

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The folder's .jinja files, else tokenizer_config.json's ``chat_template``; None: neither.

        Raises:
            ConfigError: a template that cannot be compiled, or a list of something else.
        """
        variants = _files(folder) or _named(tokenizer.config.get("chat_template"))
        return cls(variants, tokenizer.special_tokens) if variants else None

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt; special tokens are part of the text.

        Raises:
            ValidationError: messages of the wrong form, or the template refuses them.
        """
        name = "tool_use" if tools and "tool_use" in self._variants else "default"
        if name not in self._variants:
            name = next(iter(self._variants))
        try:
            return self._variants[name].render(
                messages=[_checked(index, message) for index, message in enumerate(messages)],
                tools=list(tools) if tools else None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise ValidationError(f"messages: the chat template refuses them: {error}") from error


def _files(folder: Path) -> dict[str, str]:
    """Templates by name: chat_template.jinja is the default, a folder holds the others."""
    found = [file for name in TEMPLATE_FOLDERS for file in sorted((folder / name).glob("*.jinja"))]
    variants = {file.stem: file.read_text(encoding="utf-8") for file in found}
    default = folder / "chat_template.jinja"
    if default.exists():
        variants["default"] = default.read_text(encoding="utf-8")
    return variants


def _named(source: Any) -> dict[str, str]:
    """Templates by name from one text, a list of named ones, or an object of them."""
    if not source:
        return {}
    if isinstance(source, str):
        return {"default": source}
    try:
        pairs = source.items() if isinstance(source, dict) else [
            (variant["name"], variant["template"]) for variant in source
        ]  # fmt: skip
        return {str(name): str(template) for name, template in pairs}
    except (TypeError, KeyError) as error:
        raise ConfigError("tokenizer_config.json: chat_template is no text and no list") from error


def _checked(index: int, message: Any) -> dict[str, Any]:
    """A message whose content is text: a list of text parts is joined, as templates expect."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ValidationError(f"messages[{index}] is {message!r}; expected an object with a role")
    content = message.get("content")
    if isinstance(content, list):
        parts = [p for p in content if isinstance(p, dict) and p.get("type") == "text"]
        texts = [p["text"] for p in parts if isinstance(p.get("text"), str)]
        if len(texts) != len(content):
            raise ValidationError(f"messages[{index}].content: only parts of type text are allowed")
        return {**message, "content": "".join(texts)}
    if content is not None and not isinstance(content, str):
        raise ValidationError(f"messages[{index}].content is {content!r}; expected text")
    return {**message, "content": content or ""}


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's text for training; here it is plain text."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
