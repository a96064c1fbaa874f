"""Which LoRA adapters a setting names, and where they are: local folders, or the hub's.

Knows where an adapter's files lie; does not read them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from atoll.errors import ConfigError
from atoll.weights.files import absolute, reachable
from atoll.weights.progress import download_bar

_CONFIG = "adapter_config.json"
_FILES = (_CONFIG, "adapter_model.safetensors", "adapter_model.bin")
_NAME = re.compile(r"[A-Za-z0-9._@+/-]{1,200}")
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def parse_adapters(setting: str | None) -> dict[str, str]:
    """``name=source`` pairs, separated by commas; a source alone is named after its last part.

    Raises:
        ConfigError: an empty name or source, a name given twice, or one that is none.
    """
    found: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in (setting or "").split(","))):
        name, separator, source = (part.strip() for part in item.rpartition("="))
        if not source or (separator and not name):
            raise ConfigError(f"lora_adapters: {item!r} is not name=folder")
        name = name or Path(source).expanduser().resolve().name
        check_name("lora_adapters: the name", name)
        if name in found:
            raise ConfigError(f"lora_adapters: the name {name!r} is given twice")
        found[name] = source
    return found


def check_name(what: str, name: str) -> None:
    """Raises ConfigError: an adapter cannot be asked for by this name; ``what`` has it."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{what} is {name!r:.80}; it must be of at most 200 ASCII letters, digits and the "
            "characters . _ - / @ +"
        )


def adapter_folders(setting: str | None, cache: str | Path | None = None) -> dict[str, Path]:
    """The folders of a setting's adapters by name; those of the hub are downloaded if need be.

    Raises:
        ConfigError: an adapter that is not there; says where it was looked for.
    """
    return {name: adapter_folder(source, cache) for name, source in parse_adapters(setting).items()}


def with_absolute_folders(setting: str, cache: str | Path | None = None) -> str:
    """The setting with folders that do not depend on where a process runs; hub ids stay.

    Raises:
        ConfigError: as ``adapter_folders``.
    """
    folders = adapter_folders(setting, cache)
    sources = parse_adapters(setting)
    kept = (
        f"{name}={folders[name] if is_local(source) else source}"
        for name, source in sources.items()
    )
    return ",".join(kept)


def is_local(source: str) -> bool:
    """Whether a source is meant as a folder, and not as a hub id."""
    path = Path(source).expanduser()
    return path.exists() or source.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(source)


def adapter_folder(source: str, cache: str | Path | None = None) -> Path:
    """The folder of one adapter; downloaded if need be.

    Raises:
        ConfigError: it is not there; says where it was looked for.
    """
    if not is_local(source):
        return _of_hub(source, cache)
    folder = absolute(reachable(source))
    if not (folder / _CONFIG).is_file():
        what = f"has no {_CONFIG}" if folder.is_dir() else "is no folder"
        raise ConfigError(f"lora_adapters: {folder} {what}")
    return folder


def _of_hub(repository: str, cache: str | Path | None) -> Path:
    from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
    from huggingface_hub import errors as hub

    try:
        if constants.HF_HUB_OFFLINE:
            raise hub.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        folder = snapshot_download(
            repository, cache_dir=cache, token=os.environ.get("HF_TOKEN") or None,
            allow_patterns=list(_FILES), etag_timeout=20.0, tqdm_class=download_bar(),
        )  # fmt: skip
    except Exception as error:
        kept = try_to_load_from_cache(repository, _CONFIG, cache_dir=cache)
        if not isinstance(kept, str):
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"lora_adapters: {repository!r} is no folder here, and the hub does not give it "
                f"({first})"
            ) from error
        folder = str(Path(kept).parent)
    if not (Path(folder) / _CONFIG).is_file():
        raise ConfigError(f"lora_adapters: the repository {repository!r} has no {_CONFIG}")
    return Path(folder)
