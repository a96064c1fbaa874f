"""docs/fields.md: what each route of the gateway does with each field of a request."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from atoll_client.gateway.core.fields import Row, table
from atoll_client.gateway.routes import ROUTES

_TITLES = {
    "openai": "OpenAI and compatible APIs", "anthropic": "Anthropic", "ollama": "Ollama",
    "tei": "TEI", "tgi": "TGI",
}  # fmt: skip
_HEAD = """# Fields of requests

Every field that a route of [the gateway](gateway.md) knows. A field that changes answers \
elsewhere is either honoured here or refused by name; null means the same as leaving a field out. \
A field that is in no table is unknown: OpenAI's and Anthropic's routes refuse it, as these \
services do; Ollama's, TEI's and TGI's ignore it, but name it in the header `x-unknown-fields` and \
in the log. `--unknown-fields refuse` or `report` makes all routes do the same."""


def fields_page() -> str:
    """The page, a section for each kind of body."""
    lines = [_HEAD]
    bodies = _bodies()
    for dialect, title in _TITLES.items():
        lines += ["", f"## {title}"]
        for kind, paths in bodies[dialect].items():
            lines += ["", f"### {', '.join(f'`{path}`' for path in paths)}", *_section(table(kind))]
    return "\n".join(lines) + "\n"


def _bodies() -> dict[str, dict[type[BaseModel], list[str]]]:
    """By interface: body models, with the routes that accept them.

    A model accepted by routes of several interfaces is listed under the first.
    """
    found: dict[str, dict[type[BaseModel], list[str]]] = {dialect: {} for dialect in _TITLES}
    homes: dict[type[BaseModel], str] = {}
    for route in ROUTES:
        for kind in route.kinds:
            if route.dialect in found:
                home = homes.setdefault(kind, route.dialect)
                found[home].setdefault(kind, []).append(route.path)
    return found


def _section(rows: Iterable[Row]) -> list[str]:
    rows = list(rows)
    lines = ["", "| field | values |", "|-|-|"]
    lines += [f"| `{r.name}` | {_cell(r.values)} |" for r in rows if r.effect == "honoured"]
    idle = [f"| `{r.name}` | {_cell(r.note)} |" for r in rows if r.effect == "none"]
    if idle:
        lines += ["", "| no effect | because |", "|-|-|", *idle]
    refused = [
        f"| `{r.name}` | {_cell(r.values)} | {_cell(r.note)} |"
        for r in rows if r.effect == "refused"
    ]  # fmt: skip
    if refused:
        lines += ["", "| refused | unless it is | because |", "|-|-|-|", *refused]
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")
