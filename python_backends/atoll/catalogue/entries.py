"""Entries as data: those that come with Atoll, and one for any checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from atoll.catalogue.encoders import ENCODERS, EncoderEntry
from atoll.catalogue.generators import GENERATORS, TRANSCRIBERS
from atoll.models.detected import Detected


@dataclass(frozen=True)
class Entry:
    """One model in a repository.

    model_id: hub id, or the absolute path of a checkpoint folder.
    model_type: config.json's, for people to read.
    dims: sizes that ``tensor_specs`` leaves to the checkpoint, by name; 1 for a head that it has,
        and for images if it takes them.
    settings: config.pbtxt parameters besides model_id and revision, by name in ``Settings``.
    """

    name: str
    model_id: str
    task: str
    model_type: str
    revision: str | None = None
    dims: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    def parameters(self) -> dict[str, str]:
        """All parameters that config.pbtxt passes to the backend."""
        revision = {"revision": self.revision} if self.revision else {}
        return {"model_id": self.model_id, **revision, **self.settings}


def _encoder_entry(e: EncoderEntry) -> Entry:
    pooling = {"pooling": e.pooling} if e.pooling else {}
    prompts = {"prompts": json.dumps(e.prompts)} if e.prompts else {}
    return Entry(
        name=e.name,
        model_id=e.model_id,
        task=e.task,
        model_type=e.model_type,
        revision=e.revision,
        dims={
            "labels" if "classify" in e.task else "embedding": e.size,
            **dict.fromkeys(e.heads, 1),
            **({"image": 1} if e.takes_images else {}),
        },
        settings={**pooling, **prompts},
    )


ENTRIES: tuple[Entry, ...] = (
    *map(_encoder_entry, ENCODERS),
    *(Entry(g.name, g.model_id, "generate", g.model_type) for g in GENERATORS),
    *(Entry(t.name, t.model_id, "transcribe", t.model_type) for t in TRANSCRIBERS),
)


def entry_name(model_id: str, taken: Collection[str] = ()) -> str:
    """A name for the repository: the last part of the id, in lower case, made unique."""
    path = Path(model_id)
    last = path.name
    if path.parent.name == "snapshots":  # inside the hub library's cache, the last part is a hash
        last = path.parent.parent.name.split("--")[-1]
    base = re.sub(r"[^a-z0-9._-]", "-", last.lower()).strip(".-") or "model"
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}-{count}"
    return name


def renamed(asked: str, name: str) -> str:
    """What is said to who asked for another name."""
    return (
        f"the model is served as {name!r}, not as {asked!r:.80}: a name is the last part of a "
        "path, of lower-case letters, digits and the characters . _ -"
    )


def entry_for(
    model_id: str,
    detected: Detected,
    *,
    name: str,
    revision: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Entry:
    """The entry of a checkpoint that is not in the catalogue."""
    return Entry(
        name=name,
        model_id=model_id,
        task=detected.task,
        model_type=detected.model_type,
        revision=revision,
        dims={
            "embedding": detected.embedding_size,
            "labels": len(detected.labels),
            **dict.fromkeys(detected.heads, 1),
            **({"image": 1} if detected.takes_images else {}),
        },
        settings=dict(settings or {}),
    )
