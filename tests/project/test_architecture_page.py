"""docs/architecture.md names only what exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOMES = [
    ROOT / "python_backends" / "atoll",
    ROOT / "kernels" / "atoll_kernels",
    ROOT / "client" / "atoll_client",
    ROOT,
]
_NAME = re.compile(r"`((?:[\w.-]+/)+|(?:[\w.-]+/)*[\w-]+\.(?:py|cpp|h|md))(?::([\w.]+))?`")
NAMES = sorted(set(_NAME.findall((ROOT / "docs" / "architecture.md").read_text())))


def _path(name: str) -> Path | None:
    """The file or folder, if exactly one home has it."""
    found = [home / name for home in HOMES if (home / name).exists()]
    return found[0] if len(found) == 1 else None


@cache
def _names(path: Path) -> frozenset[str]:
    """What a module defines: ``name`` at its top level, ``Class.name`` in its classes."""
    return frozenset(_defined(ast.parse(path.read_text()).body, ""))


def _defined(body: list[ast.stmt], prefix: str) -> set[str]:
    found: set[str] = set()
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found.add(prefix + node.name)
        if isinstance(node, ast.ClassDef):
            found |= _defined(node.body, f"{prefix}{node.name}.")
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {prefix + target.id for target in targets if isinstance(target, ast.Name)}
    return found


def _is_known(file: str, name: str) -> bool:
    path = _path(file)
    return path is not None and (not name or name in _names(path))


@pytest.mark.parametrize(("file", "name"), NAMES)
def test_names_exist(file: str, name: str) -> None:
    assert _is_known(file, name), f"{file}:{name}" if name else file


def test_page_names_the_way_of_a_request() -> None:
    """The pattern finds the names: files with functions in each layer, and folders."""
    layers = {file.split("/")[0] for file, name in NAMES if name}
    assert layers >= {
        "serving", "text", "encoders", "engine", "runner", "sampling", "models", "layers",
        "weights", "gateway", "launcher", "dispatch.py",
    }  # fmt: skip
    assert ("engine/", "") in NAMES


def test_missing_names_are_found() -> None:
    assert _is_known("engine/core.py", "EngineCore.step")
    assert not _is_known("engine/core.py", "EngineCore.missing")
    assert not _is_known("engine/core.py", "step")
    assert not _is_known("engine/missing.py", "")


def test_every_name_on_the_page_is_read() -> None:
    """A name that the pattern does not match would not be checked."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    spans = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S)))
    likely = {span for span in spans if re.search(r"\.(py|cpp|h)\b|/$", span)}
    read = {f"{file}:{name}" if name else file for file, name in NAMES}
    assert likely - read == set()
