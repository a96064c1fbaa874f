"""Which modules queries and documents have, by sentence-transformers' rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from atoll.errors import ConfigError, UnsupportedModel
from atoll.models.detect import read_model
from atoll.weights.router_files import read_routes, route_folders, route_parts

POOLING = "sentence_transformers.models.Pooling"
TRUNK = "sentence_transformers.models.Transformer"


def _write(folder: Path, routes: dict[str, list[str]], path: str = "", **parameters: Any) -> Path:
    kind = "sentence_transformers.models.Router"
    (folder / "modules.json").write_text(json.dumps([{"path": path, "type": kind}]))
    ids = {one for listed in routes.values() for one in listed}
    types = {one: POOLING if "Pooling" in one else TRUNK for one in ids}
    file = folder / path / ("config.json" if path else "router_config.json")
    file.parent.mkdir(exist_ok=True)
    raw = {"types": types, "structure": routes, "parameters": parameters}
    file.write_text(json.dumps(raw))
    return folder


@pytest.mark.parametrize(
    ("routes", "parameters", "by_type", "default"),
    [
        (["query", "document"], {"default_route": "document"},
         {"query": "query", "document": "document"}, "document"),
        (["query", "document"], {}, {"query": "query", "document": "document"}, "query"),
        (["query", "document"], {"allow_empty_key": False},
         {"query": "query", "document": "document"}, None),
        (["q", "d"], {"route_mappings": {"('query', 'text')": "q", "('document', None)": "d"}},
         {"query": "q", "document": "d"}, "q"),
        (["q", "d"], {"route_mappings": {"('query', None)": "q", "(None, 'text')": "d",
                                         "(None, 'image')": "q"}},
         {"query": "q", "document": "d"}, "d"),
        (["text", "query"], {"allow_empty_key": False},
         {"query": "query", "document": "text"}, "text"),
    ],
)  # fmt: skip
def test_routes(
    routes: list[str], parameters: Any, by_type: Any, default: str | None, tmp_path: Path
) -> None:
    structure = {route: [f"{route}_0_Transformer", f"{route}_1_Pooling"] for route in routes}
    found = read_routes(_write(tmp_path, structure, **parameters))
    assert found is not None
    assert (found.by_type, found.default) == (by_type, default)


def test_a_route_is_a_folder_of_its_modules(tmp_path: Path) -> None:
    """Asym's file has another name; modules may be shared, and lie at the Router's own place."""
    folder = _write(tmp_path, {"query": ["", "0_Pooling"], "document": ["", "1_Pooling"]}, "0_Asym")
    (folder / "0_Asym" / "1_Pooling").mkdir()
    (folder / "0_Asym" / "1_Pooling" / "config.json").write_text("{}")
    routes = read_routes(folder)
    assert routes is not None
    parts = {part.relative_to(folder.resolve()).as_posix() for part in route_parts(folder)}
    assert parts == {"0_Asym", "0_Asym/0_Pooling", "0_Asym/1_Pooling"}
    with route_folders(folder, routes) as folders:
        rows = json.loads((folders["document"] / "modules.json").read_text())
        assert [row["type"] for row in rows] == [TRUNK, POOLING]
        assert (folders["document"] / rows[1]["path"] / "config.json").read_text() == "{}"


def test_what_is_around_asym_is_every_routes(tmp_path: Path) -> None:
    """Once it followed the pooling: folders like that were refused."""
    folder = _write(tmp_path, {"query": ["q_Dense"], "document": ["d_Dense"]}, "2_Asym")
    router = json.loads((folder / "modules.json").read_text())
    rows = [{"path": "", "type": TRUNK}, {"path": "1_Pooling", "type": POOLING}, *router,
            {"path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(rows))
    routes = read_routes(folder)
    assert routes is not None
    assert [module.path for module in routes.modules["document"]] == [
        "", "1_Pooling", "2_Asym/d_Dense", "3_Normalize"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("modes", "told"),
    [(("cls", "mean"), "query: cls, document: mean"), (("mean", "mean"), "mean")],
)
def test_poolings_of_all_routes_are_told(modes: tuple[str, str], told: str, tmp_path: Path) -> None:
    """``atoll info`` told one of them."""
    names = ("query", "document")
    folder = _write(tmp_path, {name: [f"{name}_0", f"{name}_1_Pooling"] for name in names})
    bert = {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 32}
    for name, mode in zip(names, modes, strict=True):
        for part, config in ((f"{name}_0", bert), (f"{name}_1_Pooling", {"pooling_mode": mode})):
            (folder / part).mkdir()
            (folder / part / "config.json").write_text(json.dumps(config))
    assert read_model(folder).pooling == told


@pytest.mark.parametrize(
    ("routes", "parameters", "message"),
    [
        ({"image": ["a"]}, {}, "routes .*image.* are for neither of query, document"),
        ({"query": ["a"]}, {"default_route": "doc"}, "route 'doc' is none of"),
        ({"query": ["a"]}, {"route_mappings": {"(None, None)": "doc"}}, "route 'doc' is none of"),
        ({"query": ["a"]}, {"route_mappings": {"query": "query"}}, "the key 'query'"),
        ({"query": ["a"]}, {"temperature": 1}, "parameters .*temperature.* not supported"),
        ({"query": []}, {}, "structure"),
        ({"query": ["../a"]}, {}, "leads out of the checkpoint"),
    ],
)
def test_damaged_files(
    routes: dict[str, list[str]], parameters: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, UnsupportedModel), match=message):
        read_routes(_write(tmp_path, routes, **parameters))
