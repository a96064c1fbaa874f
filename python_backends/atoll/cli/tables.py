"""Tables on standard output: framed in a terminal that is wide enough, else plain lines.

No name is ever cut or broken, so that what is printed can be copied, searched and piped on.
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
    """Prints rows below the columns' names, which may all be empty.

    Args:
        title: a line above.
        numbers: columns are aligned at their right.
        styles: of cells with these texts, in a terminal.
    """
    console = Console()
    table = Table(title=title or None, title_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right" if numbers else "left")
    for row in rows:
        # Not markup: a text of the user's own may hold brackets.
        table.add_row(*(Text(cell, (styles or {}).get(cell, "")) for cell in row))
    unbounded = console.options.update(width=_UNBOUNDED)
    fits = Measurement.get(console, unbounded, table).maximum <= console.width
    if console.is_terminal and fits:
        console.print(table)
        return
    shown = [columns, *rows] if any(columns) else rows
    print("\n".join([*([title] if title else []), *_aligned(shown, numbers)]))


def _aligned(rows: Sequence[Sequence[str]], numbers: bool) -> list[str]:
    """A line for each row, and for each further line of a value of many."""
    lines = [
        [cell[at] if at < len(cell) else "" for cell in cells]
        for cells in ([value.split("\n") for value in row] for row in rows)
        for at in range(max(map(len, cells)))
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    pad = str.rjust if numbers else str.ljust
    return ["  ".join(map(pad, line, widths)).rstrip() for line in lines]
