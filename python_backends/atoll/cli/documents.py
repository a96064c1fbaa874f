"""Pages of docs/ that are rendered from code, so that they cannot differ from it."""

from dataclasses import fields
from typing import Any

import typer.main

from atoll.config import GROUPS, Settings
from atoll.environment import variables


def settings_page() -> str:
    """docs/settings.md: every setting, its default and what it does."""
    lines = [
        "# Settings",
        "",
        "Each setting has one name in three places: a flag of `atoll serve` "
        "(`--max-batch-tokens`), "
        "an environment variable (`ATOLL_MAX_BATCH_TOKENS`), and a parameter in an entry's "
        "config.pbtxt (`max_batch_tokens`). The parameter takes precedence over the environment, "
        "and the environment over the default. A value that cannot be used keeps the model from "
        "loading, and the error names it.",
        "",
        "Variables of TEI, TGI and LeaderWorkerSet are also read without the prefix, unless ours "
        f"with the prefix is set: {', '.join(f'`{name}`' for name in _unprefixed())}. "
        "No other name is read without the prefix.",
    ]
    for group, title in GROUPS.items():
        lines += ["", f"## {title}", "", "| setting | default | what it does |", "|-|-|-|"]
        for f in fields(Settings):
            if f.metadata["group"] == group:
                default = "" if f.default in (None, "") else f"`{str(f.default).lower()}`"
                lines.append(f"| `{f.name}` | {default} | {f.metadata['help']} |")
    return "\n".join(lines) + "\n"


def _unprefixed() -> list[str]:
    return sorted({n for f in fields(Settings) for n in variables(f.name)[1:]})


def commands_page() -> str:
    """docs/cli.md: every command with its arguments, flags and their environment variables.

    Flags of settings are left to docs/settings.md.
    """
    from atoll.cli.app import app

    group: Any = typer.main.get_command(app)
    lines = [
        "# The command line",
        "",
        "Every flag can also be set by an environment variable, which is used if the flag is not "
        "given. With `--json` (or `ATOLL_JSON=1`), a command prints JSON. A command that fails "
        "prints one line and exits with status 1; a wrong flag exits with status 2. `atoll "
        "--install-completion` sets up completion of commands and flags in the shell.",
        "",
        "| command | what it does |",
        "|-|-|",
    ]
    for name, command in group.commands.items():
        lines.append(f"| [`{name}`](#atoll-{name}) | {_summary(command)} |")
    for name, command in group.commands.items():
        lines += _command(name, command)
    return "\n".join(lines) + "\n"


def _summary(command: Any) -> str:
    """The first sentence of a command's help."""
    return _help(command.help).split(". ")[0].removesuffix(".")


def _command(name: str, command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    values = [p.name.upper() + ("..." if p.nargs == -1 else "") for p in arguments]
    usage = " ".join(["atoll", name, "[FLAGS]", *values])
    lines = ["", f"## atoll {name}", "", _help(command.help), "", f"    {usage}"]
    lines += [""] if arguments else []
    lines += [f"- `{p.name.upper()}`: {_help(p.help)}" for p in arguments]
    settings = {f.name for f in fields(Settings)} if name == "serve" else set()
    flags = [p for p in command.params if p.param_type_name == "option"]
    own = [p for p in flags if p.name not in settings or p.name == "model_id"]
    lines += ["", "| flag | environment | default | what it does |", "|-|-|-|-|"]
    lines += [_flag(name, p) for p in own]
    if len(own) < len(flags):
        lines += ["", "There is also a flag for each of the [settings](settings.md)."]
    return lines


def _flag(command: str, flag: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*flag.opts, *flag.secondary_opts])
    twin = flag.envvar or f"ATOLL_{command}_{flag.name}".upper()
    twins = ", ".join(f"`{name}`" for name in ([twin] if isinstance(twin, str) else twin))
    default = "" if flag.default in (None, "", False) else f"`{flag.default}`"
    return f"| {names} | {twins} | {default} | {_help(flag.help)} |"


def _help(text: str | None) -> str:
    """On one line, as a cell of a table needs it."""
    return " ".join((text or "").split()).replace("|", "\\|")
