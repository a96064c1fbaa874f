"""The output of ``--help``: flags by group, each with its full name on its own line.

Typer's own help is a table, which cuts long flags and variables in a terminal of 80 columns.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from typing import Any

from typer.core import TyperCommand, TyperGroup

_WIDEST = 100
_NARROWEST = 40
_EXTRAS = re.compile(r"(?:^|  )(?=\[[^\[\]]*\]$)")


class _PlainHelp:
    """Replaces what typer prints for ``--help``."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes usage, description, arguments, commands and groups of flags."""
        command: Any = self
        width = max(min(shutil.get_terminal_size().columns, _WIDEST), _NARROWEST)
        usage = f"Usage: {ctx.command_path} {' '.join(command.collect_usage_pieces(ctx))}"
        blocks = [_wrapped(usage, width)]
        blocks += [_wrapped(part, width) for part in (command.help or "").split("\n\n")]
        sections: dict[str, list[str]] = {}
        for parameter in command.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_flag = parameter.param_type_name == "option"
                group = getattr(parameter, "rich_help_panel", None)
                title = group or ("Options" if is_flag else "Arguments")
                sections.setdefault(title, []).append(_described(record[0], record[1], width))
        for name in command.list_commands(ctx) if isinstance(command, TyperGroup) else ():
            found: Any = command.get_command(ctx, name)
            summary = found.get_short_help_str(limit=1000)
            sections.setdefault("Commands", []).append(_described(name, summary, width))
        # --help and completion come last.
        last = sections.pop("Options", None)
        sections |= {"Options": last} if last else {}
        blocks += [f"{title}:\n" + "\n".join(lines) for title, lines in sections.items()]
        formatter.write("\n\n".join(block for block in blocks if block) + "\n")


class Command(_PlainHelp, TyperCommand):
    """A command with this help."""


class Group(_PlainHelp, TyperGroup):
    """A group of commands with this help."""


def _described(name: str, text: str, width: int) -> str:
    # Typer writes two spaces before the variables and the default.
    parts = [f"  {name}", *(_wrapped(part, width, "      ") for part in _EXTRAS.split(text))]
    return "\n".join(part for part in parts if part)


def _wrapped(text: str, width: int, indent: str = "") -> str:
    """Wraps lines without breaking words, not even at a hyphen, since flags have hyphens."""
    return textwrap.fill(
        " ".join(text.split()), width, initial_indent=indent, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
