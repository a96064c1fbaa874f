"""One command-line flag and environment variable per setting, generated from ``Settings``."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import OptionInfo

from atoll.config import GROUPS, Settings
from atoll.environment import PREFIX, is_service_name, variables

# model_id is a list on the command line.
_OWN = ("model_id",)
# Read elsewhere: by weights.embedded, the kernels, the gateway, runner.ranks, tests.
_OTHERS = (
    "ATOLL_CACHE", "ATOLL_CPU_ISA", "ATOLL_GATEWAY_", "ATOLL_KERNELS", "ATOLL_SCRATCH",
    "ATOLL_SHARD_KEY", "ATOLL_SOAK_S", "ATOLL_TEST_",
)  # fmt: skip
# How --help groups the command's own flags; the others come last.
_PANELS = {
    "What is served": ("model_id", "repository"),
    "The gateway": ("host", "port", "gateway_grpc_port", "api_key", "cors_allow_origin"),
    "Models at run time": (
        "admin_key_file", "admin_port", "admin_host", "lora_folder", "allow_runtime_lora",
    ),
    "Triton's own ports": (
        "triton_host", "http_port", "grpc_port", "metrics_port", "allow_shared_memory",
    ),
    "The server": (
        "server", "log_file", "verbose", "startup_timeout", "exit_timeout", "watch_interval",
    ),
}  # fmt: skip


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the flags to ``command``, which gets them as ``settings``: name to text.

    Flags that are not given are left out, so that the backend's defaults apply.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.name != "settings"]
    for parameter in own:
        _complete(command.__name__, parameter)
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


def unknown_variables(group: Any, environment: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that nothing reads, such as misspelt ones.

    group: the click command that holds all commands.
    """
    known = {
        name
        for command, found in group.commands.items()
        for flag in found.params
        for name in _listed(flag.envvar or f"{PREFIX}{command}_{flag.name}".upper())
    }
    return sorted(
        name
        for name in environment
        if name.startswith(PREFIX)
        and name not in known
        and not name.startswith(_OTHERS)
        and not is_service_name(name)
    )


def _listed(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else list(names or ())


def _complete(command: str, parameter: inspect.Parameter) -> None:
    """Lets one of the command's own flags be set by ``ATOLL_HOST`` as well as ``ATOLL_SERVE_HOST``,
    and puts it into its group."""
    group = next((title for title, names in _PANELS.items() if parameter.name in names), None)
    for option in getattr(parameter.annotation, "__metadata__", ()):
        if isinstance(option, OptionInfo):
            option.rich_help_panel = group
            name = parameter.name.upper()
            option.envvar = option.envvar or [
                f"{PREFIX}{name}",
                f"{PREFIX}{command.upper()}_{name}",
            ]


def _flag(setting: Field[Any], hint: Any) -> inspect.Parameter:
    kind = get_args(hint)[0] if get_origin(hint) is types.UnionType else hint
    flag = f"--{setting.name.replace('_', '-')}"
    names = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
    default = "" if setting.default is None else f" [default: {_text(setting.default)}]"
    option = typer.Option(
        names,
        envvar=variables(setting.name),
        help=setting.metadata["help"] + default,
        rich_help_panel=f"Settings: {GROUPS[setting.metadata['group']]}",
        show_default=False,
    )
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
