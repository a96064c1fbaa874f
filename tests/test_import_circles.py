"""No module imports one that imports it, directly or through others.

Imports for type checkers and inside functions count too: two files that need each other have to be
read as one.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    ROOT / "python_backends" / "atoll",
    ROOT / "kernels" / "atoll_kernels",
    ROOT / "client" / "atoll_client",
)


def _modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            parts = path.relative_to(package.parent).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def _imports(name: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Modules that one imports, and the packages that are imported on the way to them."""
    for found in _named(path, modules):
        yield found
        parts = found.split(".")[:-1]
        packages = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        # Its own packages were there before it.
        yield from (one for one in packages if one in modules and not name.startswith(f"{one}."))


def _named(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                if module in modules or node.module in modules:
                    yield module if module in modules else node.module


def _reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    """Modules that ``start`` imports, directly or through others."""
    found: set[str] = set()
    left = [start]
    while left:
        new = graph[left.pop()] - found
        found |= new
        left += new
    return found


def test_no_module_imports_itself_through_others() -> None:
    modules = _modules()
    graph = {name: {*_imports(name, path, modules)} - {name} for name, path in modules.items()}
    reached = {name: _reached(name, graph) for name in graph}
    circles = {
        frozenset(other for other in names if name in reached[other])
        for name, names in reached.items()
        if name in names
    }
    assert not circles, circles
