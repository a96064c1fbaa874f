"""Versions of an entry in a model repository: which are served, and which checkpoint each runs.

<entry>/config.pbtxt    model_id: a hub id, or a folder; a relative one lies in the version's
                        folder or the entry's, "." too; left out: the version's own, the entry's
<entry>/config.json     with its weights: what every version runs that has none of its own
<entry>/2/config.json   with its weights: what version 2 runs
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.errors import ConfigError
from atoll.weights.files import is_checkpoint

# Triton ignores other folders, among them those that begin with a zero.
_VERSION = re.compile(r"[1-9]\d*")


def served_versions(entry: Path, policy: Mapping[str, Any]) -> tuple[str, ...]:
    """The version folders that Triton loads, the highest last.

    policy: ``version_policy`` of config.pbtxt as JSON; the latest one where it is empty.
    """
    folders = entry.iterdir() if entry.is_dir() else ()
    there = [int(f.name) for f in folders if _VERSION.fullmatch(f.name) and f.is_dir()]
    there.sort()
    if "all" in policy:
        found = there
    elif "specific" in policy:
        wanted = {int(number) for number in (policy["specific"] or {}).get("versions", ())}
        found = [number for number in there if number in wanted]
    else:
        count = int((policy.get("latest") or {}).get("num_versions", 1))
        found = there[-count:]
    return tuple(map(str, found))


def version_model_id(entry: Path, version: str, model_id: str) -> str:
    """What a version runs: the folder of its checkpoint, or ``model_id`` where that is none of the
    entry's; "" where nothing says.

    model_id: as config.pbtxt has it; "" if left out.

    Raises:
        ConfigError: a relative folder that is not there, or a checkpoint in the entry or the
            version that model_id passes over.
    """
    places = (entry / version, entry)
    own = next((place for place in places if is_checkpoint(place)), None)
    if not model_id:
        return str(own.resolve()) if own else ""
    found = None
    if not Path(model_id).expanduser().is_absolute():
        inside = [place / model_id for place in places]
        found = next((folder for folder in inside if is_checkpoint(folder)), None)
        is_path = model_id.startswith(".") or any(folder.is_dir() for folder in inside)
        if found is None and is_path:
            raise ConfigError(
                f"model_id {model_id!r}: there is no such folder with a config.json in "
                f"{entry / version} or {entry}"
            )
    if own is not None and (found is None or not found.resolve().is_relative_to(own.resolve())):
        raise ConfigError(
            f"model_id is {model_id!r}, but {own} holds a checkpoint of its own: leave model_id "
            "out, and each version runs its own, or take that checkpoint away"
        )
    return str(found.resolve()) if found else model_id


def entry_adapters(entry: Path, version: str, setting: str) -> str:
    """``lora_adapters`` of config.pbtxt, with folders of the version or the entry made absolute."""
    found = []
    for item in filter(None, (part.strip() for part in setting.split(","))):
        name, separator, source = (part.strip() for part in item.rpartition("="))
        inside = [] if source.startswith("~") else [entry / version / source, entry / source]
        own = next(
            (folder for folder in inside if (folder / "adapter_config.json").is_file()), None
        )
        found.append(f"{name}{separator}{own.resolve() if own else source}")
    return ",".join(found)
