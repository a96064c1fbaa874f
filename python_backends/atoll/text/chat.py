"""Turns chat messages into a prompt, with the checkpoint's own jinja template in a sandbox.

Templates get what transformers provides: ``raise_exception``, ``strftime_now``, ``tojson`` without
HTML escapes, loop controls, and the ``generation`` block.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols

from atoll.errors import ConfigError, ValidationError
from atoll.text.chat_content import ContentForm, Message, as_text
from atoll.text.chat_history import HistoryForm
from atoll.text.chat_options import RESERVED, ROLES, ChatOptions, text_of, told_calls, told_results
from atoll.text.sandbox import BoundedEnvironment, bounded
from atoll.text.tokenizer import Tokenizer
from atoll.weights.modules import read_object

_DEFAULT = ChatOptions()
# transformers writes the first; older versions of its documentation name the second.
TEMPLATE_FOLDERS = ("additional_chat_templates", "chat_templates")
_OLD_FILE = "chat_template.json"


class ChatTemplate:
    """A compiled template. Of named variants, "default" and "tool_use" are used.

    variables: those that requests may set. text: of the variant without tools.
    """

    def __init__(self, variants: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        environment = BoundedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = bounded(_tojson)
        environment.globals.update(raise_exception=_raise, strftime_now=_now)
        try:
            self._variants = {k: environment.from_string(v) for k, v in variants.items()}
            trees = {k: environment.parse(v) for k, v in variants.items()}
            self._forms = {k: ContentForm.of(tree) for k, tree in trees.items()}
            self._histories = {k: HistoryForm.of(tree) for k, tree in trees.items()}
            self._variables = {k: meta.find_undeclared_variables(t) for k, t in trees.items()}
            self._words = {k: _words(tree) for k, tree in trees.items()}
            self._reads_calls = {k: _reads_calls(tree) for k, tree in trees.items()}
        except Exception as error:
            raise ConfigError(f"the chat template cannot be compiled: {error}") from error
        self._special_tokens = dict(special_tokens)
        self._own = environment.globals.keys() | special_tokens.keys()
        self.variants = dict(variants)
        self.text = variants.get("default") or next(iter(variants.values()))
        self.variables = frozenset[str]().union(*self._variables.values()) - RESERVED - self._own

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The folder's .jinja files, or else ``chat_template`` of tokenizer_config.json or of
        chat_template.json, which models for images besides text have; None: none of them.

        Raises:
            ConfigError: a template that cannot be compiled, or a list of something else.
        """
        variants = _files(folder) or _named(tokenizer.config.get("chat_template"))
        variants = variants or _named(read_object(folder / _OLD_FILE).get("chat_template"))
        return cls(variants, tokenizer.special_tokens) if variants else None

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: ChatOptions = _DEFAULT,
    ) -> str:
        """The prompt; special tokens are part of the text.

        If the template has no place for tools, they are added to the user's last message; if it
        does not know the developer role, that role becomes system; if it reads no tool calls,
        they are added to the content of the message that made them; and if it does not know the
        role of their results, these become a message of the user.

        Raises:
            ValidationError: malformed messages, options that the template does not read, or the
                template refuses them.
        """
        name = self._variant(tools)
        options.check(self._variables[name], self._own)
        asked = [self._of_a_role(name, index, message) for index, message in enumerate(messages)]
        if not self._reads_calls[name]:
            asked = [told_calls(message) for message in asked]
        if tools:
            asked = options.told_tools(asked, tools, "tools" in self._variables[name])
        if options.continue_final_message:
            return options.cut(self._with_results(name, options.tagged(asked), tools, options))
        return self._with_results(name, asked, tools, options)

    def _of_a_role(self, name: str, index: int, message: Any) -> Message:
        role = message.get("role") if isinstance(message, dict) else None
        known = ROLES | self._words[name]
        if isinstance(role, str) and role not in known:
            raise ValidationError(
                f"messages[{index}].role is {role!r}; expected one of {', '.join(sorted(ROLES))}, "
                "or another that the chat template names"
            )
        if role == "developer" and role not in self._words[name]:
            return {**message, "role": "system"}
        found: Message = message
        return found

    def _with_results(
        self, name: str, messages: Sequence[Message], tools: Any, options: ChatOptions
    ) -> str:
        """The prompt; results of tools that would be refused or left out are the user's."""
        results = [one for one in messages if one.get("role") == "tool"]
        if not results or "tool" in self._words[name]:
            return self._said(name, messages, tools, options)
        try:
            text = self._said(name, messages, tools, options)
        except ValidationError:
            pass
        else:
            if all(text_of(one).strip() in text for one in results):
                return text
        return self._said(name, told_results(messages), tools, options)

    def _said(
        self, name: str, messages: Sequence[Message], tools: Any, options: ChatOptions
    ) -> str:
        form = self._forms[name]
        given = [form.given(index, message) for index, message in enumerate(messages)]
        try:
            text = self._rendered(name, given, tools, options)
        except ValidationError:
            if not (form.takes_parts and form.takes_text):
                raise
            unwanted = list(range(len(given)))
        else:
            unwanted = [i for i, one in enumerate(given) if _is_printed(one, text)]
            if not unwanted:
                return text
        # The template accepts parts in some messages, but expects text in these.
        for index in unwanted:
            given[index] = as_text(given[index])
        return self._rendered(name, given, tools, options)

    def _variant(self, tools: Any) -> str:
        if tools and "tool_use" in self._variants:
            return "tool_use"
        if "default" not in self._variants and len(self._variants) > 1:
            names = ", ".join(sorted(self._variants))
            raise ValidationError(
                f"messages: the model has the chat templates {names}, and none is its default"
            )
        return "default" if "default" in self._variants else next(iter(self._variants))

    def _rendered(
        self, name: str, messages: list[dict[str, Any]], tools: Any, options: ChatOptions
    ) -> str:
        try:
            return self._variants[name].render(
                messages=self._histories[name].given(messages),
                tools=list(tools) if tools else None,
                add_generation_prompt=options.add_generation_prompt,
                **{**self._special_tokens, **options.variables},
            )
        except Exception as error:  # a template is a program: it may raise anything
            reason = str(error) or type(error).__name__
            raise ValidationError(f"messages: the chat template refuses them: {reason}") from error


def templates(folder: Path, config: Mapping[str, Any]) -> Mapping[str, str]:
    """A checkpoint's templates by name: .jinja files, or else the key of tokenizer_config.json.

    Raises:
        ConfigError: see ``ChatTemplate.load``.
    """
    return _files(folder) or _named(config.get("chat_template"))


def _words(tree: nodes.Template) -> set[str]:
    """The string constants of a template, which include the roles that it distinguishes."""
    return {one.value for one in tree.find_all(nodes.Const) if isinstance(one.value, str)}


def _reads_calls(tree: nodes.Template) -> bool:
    """Whether a template reads ``tool_calls`` of messages."""
    attributes = (one.attr for one in tree.find_all(nodes.Getattr))
    return "tool_calls" in _words(tree) or "tool_calls" in attributes


def _is_printed(message: Message, text: str) -> bool:
    content = message.get("content")
    return isinstance(content, list) and bool(content) and str(content) in text


def _files(folder: Path) -> dict[str, str]:
    """Templates by name: chat_template.jinja is the default, a folder contains the others."""
    found = [file for name in TEMPLATE_FOLDERS for file in sorted((folder / name).glob("*.jinja"))]
    variants = {file.stem: _read(file) for file in found}
    default = folder / "chat_template.jinja"
    if default.exists():
        variants["default"] = _read(default)
    return variants


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: the chat template cannot be read: {error}") from error


def _named(source: Any) -> dict[str, str]:
    """Templates by name, from one text, a list of named ones, or an object of them."""
    if source is None or source == "":
        return {}
    if isinstance(source, str):
        return {"default": source}
    try:
        found = source if isinstance(source, dict) else {
            variant["name"]: variant["template"] for variant in source
        }  # fmt: skip
        if not all(isinstance(text, str) for pair in found.items() for text in pair):
            raise TypeError("a template is no text")
        return dict(found)
    except (TypeError, KeyError) as error:
        raise ConfigError("tokenizer_config.json: chat_template is no text and no list") from error


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
