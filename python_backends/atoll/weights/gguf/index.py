"""What a folder remembers of the GGUF files that its tensors are in.

The folder has the small files of a checkpoint; the tensors stay where they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from atoll.errors import WeightError
from atoll.weights.gguf.architecture import Heads
from atoll.weights.gguf.config import architecture_of, read_heads
from atoll.weights.gguf.file import GgufFile, Stored

NAME = "gguf.json"


class Source(NamedTuple):
    """A file, and what tells whether it is still the one that was read."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Source:
        """Raises OSError: there is no such file."""
        found = path.stat()
        return cls(str(path), found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class Index:
    """architecture: a key of the table. name: as the file says. tensors: by GGUF's names."""

    architecture: str
    num_layers: int
    heads: Heads
    sources: tuple[Source, ...]
    tensors: Mapping[str, Stored]

    @classmethod
    def of(cls, file: GgufFile) -> Index:
        """Raises UnsupportedModel, WeightError: as ``read_config``."""
        architecture_of(file)
        name, count = file.architecture, file.number(f"{file.architecture}.block_count")
        num_layers = max(count, file.number(f"{name}.decoder_block_count", 0))
        sources = tuple(Source.of(path.absolute()) for path in file.paths)
        further = tuple(f"blk.{layer}." for layer in range(file.num_layers, count))
        tensors = {n: t for n, t in file.tensors.items() if not n.startswith(further)}
        return cls(name, num_layers, read_heads(file), sources, tensors)

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Reads a folder's.

        Raises:
            WeightError: it is damaged, or a file that it is about was changed or moved.
        """
        path = folder / NAME
        try:
            raw: Any = json.loads(path.read_text(encoding="utf-8"))
            found = cls(
                raw["architecture"], raw["num_layers"], Heads(*raw["heads"]),
                tuple(Source(*source) for source in raw["sources"]),
                {
                    name: Stored(number, kind, tuple(shape), offset)
                    for name, (number, kind, shape, offset) in raw["tensors"].items()
                },
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightError(f"{path}: is no index of a GGUF file: {error}") from error
        for source in found.sources:
            try:
                is_same = Source.of(Path(source.path)) == source
            except OSError as error:
                raise WeightError(f"{folder}: its tensors are in {source.path}: {error}") from error
            if not is_same:
                raise WeightError(
                    f"{folder}: {source.path} has changed since; give the file itself as the model"
                )
        return found

    def save(self, folder: Path) -> None:
        """Writes it."""
        (folder / NAME).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def is_gguf(folder: Path) -> bool:
    """Whether a checkpoint folder's tensors are in GGUF files."""
    return (folder / NAME).is_file()
