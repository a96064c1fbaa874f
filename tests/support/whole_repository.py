"""Every entry of model_repository/ over a tiny checkpoint of its architecture, a group of them in a
server."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from entry_checkpoints import layout, write_decoder, write_encoder
from serving import ONE_THREAD
from tiny.whisper import write_whisper

from atoll.catalogue import ENTRIES, read_repository
from atoll.launcher import ServerOptions, ServerProcess

REPOSITORY = Path(__file__).parents[2] / "model_repository"
MODELS = {model.name: model for model in read_repository(REPOSITORY)}
ENTRIES_BY_NAME = {entry.name: entry for entry in ENTRIES}
GENERATORS = sorted(name for name, model in MODELS.items() if model.task == "generate")
TRANSCRIBERS = sorted(name for name, model in MODELS.items() if model.task == "transcribe")
# Entries that others are made of come with them.
PIPELINES = [
    "all-minilm-l6-v2", "all-minilm-l6-v2-tokens", "all-minilm-l6-v2-ensemble",
    "bge-reranker-base", "splade-cocondenser-ensembledistil", "retrieve-rerank", "hybrid-search",
]  # fmt: skip

# All alike but for the generator's name: test_sessions talks to one of them.
SESSIONS = [f"{name}-session" for name in GENERATORS]
ENCODERS = sorted(MODELS.keys() - {*GENERATORS, *TRANSCRIBERS, *PIPELINES, *SESSIONS})
TEXTS = ["An atoll is a ring", "of coral"]
# Tokens: more than can leave together while the sender waits for its turn on a loaded machine.
COUNT = 32
PROMPT = "An atoll is"


def shape(name: str) -> tuple[str, str, str]:
    """An entry's tiny checkpoint, and its folder's files but for the names of entry and checkpoint:
    entries of one shape differ in nothing that a server sees of them here.
    """
    entry, folder = ENTRIES_BY_NAME[name], REPOSITORY / name
    text = (folder / "config.pbtxt").read_text().replace(f'"{name}"', '""')
    model = (folder / "1" / "model.py").read_text().partition('"""')[2].partition('"""')[2]
    kind = f"jina {entry.model_type}" if "jina" in entry.model_id else entry.model_type
    if entry.task == "generate":
        kind = layout(entry.model_id)
    elif "embedding" in entry.dims:
        # The tiny checkpoint is as wide as the entry says, whatever that is.
        text = text.replace(f"dims: [ {entry.dims['embedding']} ]", "")
    return f"{entry.task} {kind}", text.replace(f'"{entry.model_id}"', '""'), model


def _one_of_each(names: list[str]) -> list[str]:
    return sorted({shape(name): name for name in reversed(names)}.values())


def takes_images(name: str) -> bool:
    """Whether an encoder embeds images, too."""
    return "image" in ENTRIES_BY_NAME[name].dims


# What is served: of entries that are alike, the first.
SERVED_ENCODERS = _one_of_each(ENCODERS)
SERVED_GENERATORS = _one_of_each(GENERATORS)
SERVED_TRANSCRIBERS = _one_of_each(TRANSCRIBERS)
# Entries in one server: a stub process each, a quarter of a gigabyte and seconds of both cores.
GROUP_SIZE = 11


def _grouped(names: list[str]) -> list[list[str]]:
    """As few groups as possible, of about the same size."""
    count = -(-len(names) // GROUP_SIZE)
    bounds = [len(names) * index // count for index in range(count + 1)]
    return [names[start:end] for start, end in pairwise(bounds)]


GROUPS = [
    PIPELINES, *_grouped(SERVED_ENCODERS), *_grouped([*SERVED_GENERATORS, *SERVED_TRANSCRIBERS]),
]  # fmt: skip


@dataclass(frozen=True)
class Served:
    """A loaded entry. reference: what ``write_decoder`` or ``write_encoder`` returned for it."""

    server: ServerProcess
    name: str
    checkpoint: Path
    reference: Callable[..., torch.Tensor] | None


def _checkpoint(name: str, folder: Path) -> Callable[..., torch.Tensor] | None:
    """The tiny checkpoint of an entry; a pipeline's step takes its encoder's."""
    folder.mkdir(parents=True)
    entry = ENTRIES_BY_NAME.get(name) or ENTRIES_BY_NAME.get(name.removesuffix("-tokens"))
    if entry is None:
        return None
    if entry.task == "transcribe":
        write_whisper("whisper", folder)
        return None
    if entry.task == "generate":
        return write_decoder(entry.model_id, folder)
    return write_encoder(entry, folder)


def _scratch_copy(name: str, checkpoint: Path, target: Path) -> None:
    """The committed folder, its model_id replaced."""
    shutil.copytree(REPOSITORY / name, target / name)
    path = target / name / "config.pbtxt"
    text, count = re.subn(
        r'(key: "model_id"\s+value \{ string_value: )"[^"]*"',
        lambda match: f"{match[1]}{json.dumps(str(checkpoint))}",
        path.read_text(),
    )
    assert count <= 1
    path.write_text(text)


@contextmanager
def _served(names: list[str], base: Path) -> Iterator[dict[str, Served]]:
    """The entries in one server, each over a tiny checkpoint."""
    references = {}
    for name in names:
        references[name] = _checkpoint(name, base / "checkpoints" / name)
        _scratch_copy(name, base / "checkpoints" / name, base / "models")
    options = ServerOptions.on_free_ports(
        repository=base / "models", watch_interval_s=0.0, exit_timeout_s=3,
        environment={"ATOLL_MAX_BATCH_TOTAL_TOKENS": "1024", **ONE_THREAD},
    )  # fmt: skip
    with ServerProcess(options) as server:
        yield {
            name: Served(server, name, base / "checkpoints" / name, reference)
            for name, reference in references.items()
        }


class Groups:
    """Starts the server of a group when a test asks for it, and stops the one before."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders, self._stack = folders, ExitStack()
        self._index, self._served = -1, dict[str, Served]()

    def of(self, name: str) -> dict[str, Served]:
        """The entries of the group that ``name`` is in."""
        index = next(i for i, names in enumerate(GROUPS) if name in names)
        if index != self._index:
            self.close()
            base = self._folders.mktemp("repository")
            self._served = self._stack.enter_context(_served(GROUPS[index], base))
            self._index = index
        return self._served

    def close(self) -> None:
        """Stops the server that runs."""
        self._index = -1
        self._stack.close()
