"""The dependency rules: arrows point one way, and each foreign library has one home."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from atoll.models.families import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "atoll": ROOT / "python_backends" / "atoll",
    "atoll_kernels": ROOT / "kernels" / "atoll_kernels",
    "atoll_client": ROOT / "client" / "atoll_client",
}

# Layer -> the layers of ours it may import. Everything may import what ALWAYS names.
ALLOWED = {
    "atoll_kernels": set[str](),
    "weights": set[str](),
    "layers": {"weights", "atoll_kernels"},
    "models": {"layers", "weights", "atoll_kernels", "text", "images", "audio"},
    "text": {"weights"},
    "images": {"weights"},
    "audio": {"weights"},
    "sampling": {"text", "atoll_kernels"},
    "runner": {"sampling", "models", "layers", "weights", "text", "atoll_kernels"},
    "fairness": set[str](),
    "engine": {"runner", "sampling", "fairness"},  # BORDER alone, of runner and sampling
    "encoders": {"fairness", "models", "layers", "weights", "text", "images", "atoll_kernels"},
    "serving": {
        "engine", "runner", "sampling", "encoders", "models", "text", "images", "audio", "layers",
        "weights", "atoll_kernels", "fairness",
    },
    "catalogue": {"serving", "models", "weights"},
    "launcher": {"catalogue", "serving", "weights", "text"},
    # infer, chat, bench and profile ask a server as every other client does.
    "cli": {
        "launcher", "catalogue", "serving", "runner", "models", "weights", "text",
        "atoll_kernels", "atoll_client",
    },
}  # fmt: skip
ALWAYS = {
    "errors", "config", "environment", "cgroup", "json_text", "logs", "packing", "progress",
    "setting_fields", "atoll",
}  # fmt: skip

# What the engine knows of those that compute: frozen dataclasses of arrays.
BORDER = {"atoll.runner.step_input", "atoll.sampling.inputs"}

# Foreign module -> where it may be imported.
HOMES = {
    "triton_python_backend_utils": ("atoll/serving/triton/",),
    "triton": ("atoll_kernels/gpu/",),
    "PIL": ("atoll/images/",),
    "soundfile": ("atoll/audio/",),
    "transformers": (
        "atoll/text/",
        "atoll/audio/",
        "atoll/models/fallback",
        "atoll/weights/gguf/",
    ),
}


def _files() -> list[tuple[str, Path]]:
    return [(name, f) for name, root in PACKAGES.items() for f in sorted(root.rglob("*.py"))]


@cache
def _imports(path: Path) -> set[str]:
    """Absolute module names that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def _layer(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] == "atoll":
        return parts[1] if len(parts) > 1 else "atoll"
    return parts[0] if parts[0] in PACKAGES else None


def _place(package: str, path: Path) -> str:
    return f"{package}/{path.relative_to(PACKAGES[package]).as_posix()}"


@pytest.mark.parametrize(("package", "path"), _files(), ids=lambda v: getattr(v, "name", v))
def test_imports_follow_the_arrows(package: str, path: Path) -> None:
    place = _place(package, path)
    own = place.split("/")[1].removesuffix(".py") if package == "atoll" else package
    for module in _imports(path):
        layer = _layer(module)
        if layer is None or layer == own or layer in ALWAYS:
            continue
        assert own not in ALWAYS, f"{place} imports {module}"
        assert layer in ALLOWED[own], f"{place} ({own}) imports {module} ({layer})"


@pytest.mark.parametrize(("package", "path"), _files(), ids=lambda v: getattr(v, "name", v))
def test_foreign_libraries_stay_at_home(package: str, path: Path) -> None:
    place = _place(package, path)
    for module in _imports(path):
        for library, homes in HOMES.items():
            if module.split(".")[0] == library:
                assert place.startswith(homes), f"{place} imports {module}"


def test_the_engine_knows_the_border_alone() -> None:
    for path in sorted((PACKAGES["atoll"] / "engine").glob("*.py")):
        others = {m for m in _imports(path) if _layer(m) in ("runner", "sampling")}
        assert others <= BORDER, f"{path.name} imports {others - BORDER}"


def test_the_engine_needs_no_torch() -> None:
    """Nor anything that needs it, wherever it is imported on the way."""
    script = """
import sys
sys.modules["torch"] = None
import importlib, pkgutil
import atoll.engine
for module in pkgutil.iter_modules(atoll.engine.__path__):
    importlib.import_module(f"atoll.engine.{module.name}")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_commands_start_without_torch() -> None:
    """Each took two seconds longer, ``atoll --help`` too."""
    script = "import sys; sys.modules['torch'] = None; import atoll.cli"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_architectures_do_not_import_each_other() -> None:
    models = PACKAGES["atoll"] / "models"
    architectures = {family.file for family in FAMILIES}
    for name in architectures:
        imported = {m.split(".")[-1] for m in _imports(models / f"{name}.py") if "models." in m}
        assert not imported & architectures, f"{name} imports {imported & architectures}"


def test_files_stay_chapters() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for _, path in _files()
        if (count := len(path.read_text().splitlines())) > 300
    }
    assert not long


@pytest.mark.parametrize("folder", ["kernels", "python_backends", "client", "tests"])
def test_top_folders_are_no_packages(folder: str) -> None:
    """A regular package called ``kernels`` makes transformers believe it is Hugging Face's."""
    assert not (ROOT / folder / "__init__.py").exists()
