"""One command-line flag per setting, each with its environment twin, from ``Settings`` itself."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from atoll.config import Settings

# model_id is a list on the command line.
_OWN = ("model_id",)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the flags to ``command``, which gets them as ``settings``: name to text.

    Flags that are not given are not in it, so that the backend's defaults hold.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.name != "settings"]
    hints = get_type_hints(Settings)
    flags = [_flag(f, hints[f.name]) for f in fields(Settings) if f.name not in _OWN]

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        given = {flag.name: values.pop(flag.name) for flag in flags}
        settings = {k: _text(v) for k, v in given.items() if v is not None}
        command(**values, settings=settings)

    # typer reads both.
    wrapped.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in [*own, *flags]}
    return wrapped


def _flag(setting: Field[Any], hint: Any) -> inspect.Parameter:
    kind = get_args(hint)[0] if get_origin(hint) is types.UnionType else hint
    flag = f"--{setting.name.replace('_', '-')}"
    names = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
    default = "" if setting.default is None else f" [default: {_text(setting.default)}]"
    option = typer.Option(
        names,
        envvar=setting.name.upper(),
        help=setting.metadata["help"] + default,
        rich_help_panel=f"Settings: {setting.metadata['group']}",
        show_default=False,
    )
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
