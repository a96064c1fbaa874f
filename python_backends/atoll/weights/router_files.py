"""Folders of sentence-transformers' Router (once Asym): queries and documents have other modules.

A route is read as a folder of its own: links to its modules, and a modules.json that names them.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from atoll.errors import ConfigError, UnsupportedModel
from atoll.weights.json_fields import Fields
from atoll.weights.modules import Module, parse_modules, read_document, read_modules

_ROUTERS = ("Router", "Asym")
# What a request may say that its texts are.
INPUT_TYPES = ("query", "document")
_MODALITY = "text"
# Files beside modules.json that hold for all routes.
_SHARED = ("config_sentence_transformers.json",)


class Routes(NamedTuple):
    """modules: of each route, in order. by_type: the route of each of ``INPUT_TYPES``.

    default: the route of a request that names none; None: it has to.
    """

    modules: Mapping[str, tuple[Module, ...]]
    by_type: Mapping[str, str]
    default: str | None

    @property
    def main(self) -> str:
        """The route that stands for the model where one has to."""
        return self.default or next(iter(self.modules))

    def told(self, facts: Mapping[str, str | None]) -> str | None:
        """A fact of each route in one text: what holds for all, or for each kind of text."""
        if len(set(facts.values())) == 1:
            return next(iter(facts.values()))
        kinds = self.by_type.items()
        return ", ".join(f"{kind}: {facts[route] or 'none'}" for kind, route in kinds)


def read_routes(folder: Path) -> Routes | None:
    """The routes of a folder; None: it has no Router.

    Raises:
        ConfigError: its file is missing or malformed. UnsupportedModel: it has routes for more than
            texts, or those of no query and no document; names them.
    """
    modules = read_modules(folder)
    place = next((i for i, module in enumerate(modules) if module.kind in _ROUTERS), None)
    if place is None:
        return None
    # Asym once followed the trunk and its pooling, which its routes then have in common.
    before, router, after = modules[:place], modules[place], modules[place + 1 :]
    path, raw = _config(folder, router)
    structure = _structure(path, raw, router)
    parameters = Fields(raw, str(path)).inside("parameters")
    known = {"default_route", "allow_empty_key", "route_mappings"}
    left = sorted(parameters.raw.keys() - known)
    if left:
        raise UnsupportedModel(f"{path}: parameters {left} are not supported")
    mappings = _mappings(path, parameters)
    default = parameters.text("default_route", default="", nullable=True) or None
    if default is None and parameters.flag("allow_empty_key", default=True, nullable=True):
        default = next(iter(structure))
    for name in (*mappings.values(), *([] if default is None else [default])):
        if name not in structure:
            raise ConfigError(f"{path}: route {name!r} is none of {sorted(structure)}")
    found = {kind: _route(kind, mappings, structure) for kind in INPUT_TYPES}
    by_type = {kind: route for kind, route in found.items() if route is not None}
    chosen = _route(None, mappings, structure) or default
    if not by_type:
        raise UnsupportedModel(
            f"{path}: routes {sorted(structure)} are for neither of {', '.join(INPUT_TYPES)}"
        )
    used = {*by_type.values(), *([] if chosen is None else [chosen])}
    whole = {n: (*before, *m, *after) for n, m in structure.items() if n in used}
    return Routes(whole, by_type, chosen)


def _mappings(path: Path, parameters: Fields) -> dict[tuple[str | None, str | None], str]:
    """Routes by task and modality; None stands for any."""
    found = {}
    for key, route in parameters.inside("route_mappings").raw.items():
        try:
            task, modality = ast.literal_eval(key)
        except (ValueError, SyntaxError, TypeError) as error:
            raise ConfigError(f"{path}: route_mappings has the key {key!r}: {error}") from error
        if modality in (None, _MODALITY):
            found[task, modality] = str(route)
    return found


def _route(
    task: str | None,
    mappings: Mapping[tuple[str | None, str | None], str],
    structure: Mapping[str, object],
) -> str | None:
    """By sentence-transformers' order."""
    for key in ((task, _MODALITY), (task, None), (None, _MODALITY), (None, None)):
        if key in mappings:
            return mappings[key]
    return next((name for name in (task, _MODALITY) if name in structure), None)


def route_parts(folder: Path) -> set[Path]:
    """The folders of all modules of all routes; none where there is no Router."""
    routes = read_routes(folder)
    lists = () if routes is None else routes.modules.values()
    return {(folder / module.path).resolve() for modules in lists for module in modules}


@contextmanager
def route_folders(folder: Path, routes: Routes) -> Iterator[dict[str, Path]]:
    """Each route as a folder, as long as the context is open."""
    with TemporaryDirectory(prefix="atoll-routes-") as base:
        found = {}
        for number, (name, modules) in enumerate(routes.modules.items()):
            view = found[name] = Path(base) / f"{number}-{folder.name}"
            view.mkdir()
            rows = []
            for index, module in enumerate(modules):
                part = f"{index}_{module.kind}"
                (view / part).symlink_to((folder / module.path).resolve())
                rows.append({"idx": index, "name": part, "path": part, "type": module.type})
            (view / "modules.json").write_text(json.dumps(rows), encoding="utf-8")
            for shared in _SHARED:
                if (folder / shared).exists():
                    (view / shared).symlink_to((folder / shared).resolve())
        yield found


def _config(folder: Path, router: Module) -> tuple[Path, dict[str, Any]]:
    """The file of a Router, by either of its names, and what it holds."""
    own = folder / router.path
    path, of_asym = own / "router_config.json", own / "config.json"
    if not path.exists() and of_asym.exists():
        path = of_asym
    return path, read_document(path)


def _structure(path: Path, raw: Any, router: Module) -> dict[str, tuple[Module, ...]]:
    """The modules of each route. path, raw: see ``_config``.

    Raises:
        ConfigError: the file is malformed, or names a path outside the checkpoint.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected an object")
    fields = Fields(raw, str(path))
    types, structure = fields.inside("types").raw, fields.inside("structure").raw
    is_right = all(isinstance(ids, list) and ids for ids in structure.values())
    if not structure or not is_right:
        raise fields.wrong("a list of modules for each route", "structure")
    found = {}
    for route, ids in structure.items():
        unknown = [one for one in ids if one not in types]
        if unknown:
            raise ConfigError(f"{path}: modules {unknown} of route {route!r} have no type")
        rows = [{"type": types[i], "path": str(PurePosixPath(router.path, i))} for i in ids]
        found[route] = parse_modules(rows, f"{path}: route {route!r}")
    return found
