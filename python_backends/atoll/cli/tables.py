"""Tables on standard output: framed if the terminal is wide enough, otherwise plain lines.

Names are never cut or broken, so that the output can be copied, searched and piped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_UNBOUNDED = 1_000_000


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    numbers: bool = False,
    styles: Mapping[str, str] | None = None,
) -> None:
    """Prints rows below the column names, which may all be empty.

    Args:
        title: a line above the table.
        numbers: columns to align right.
        styles: the style of cells with a given text, in a terminal.
    """
    console = Console()
    table = Table(title=title or None, title_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right" if numbers else "left")
    for row in rows:
        # Not markup: a user's text may contain brackets.
        table.add_row(*(Text(cell, (styles or {}).get(cell, "")) for cell in row))
    unbounded = console.options.update(width=_UNBOUNDED)
    fits = Measurement.get(console, unbounded, table).maximum <= console.width
    if console.is_terminal and fits:
        console.print(table)
        return
    shown = [columns, *rows] if any(columns) else rows
    print("\n".join([*([title] if title else []), *_aligned(shown, numbers)]))


def _aligned(rows: Sequence[Sequence[str]], numbers: bool) -> list[str]:
    """A line for each row, and one for each further line of a multi-line value."""
    lines = [
        [cell[at] if at < len(cell) else "" for cell in cells]
        for cells in ([value.split("\n") for value in row] for row in rows)
        for at in range(max(map(len, cells)))
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    pad = str.rjust if numbers else str.ljust
    return ["  ".join(map(pad, line, widths)).rstrip() for line in lines]
