"""Old weight files to safetensors: sharded ``.bin`` checkpoints, and GGUF files.

``.bin`` files are pickles; they are read with torch's weights-only unpickler, which runs no code.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from atoll.errors import ConfigError, WeightError
from atoll.weights.gguf.convert import convert as convert_gguf
from atoll.weights.progress import Progress
from atoll.weights.reader import load_bin

_WEIGHT_FILES = ("*.bin", "*.bin.index.json", "*.pt", "*.msgpack", "*.h5", "*.onnx", "*.gguf")


def convert(source: Path, target: Path, progress: Progress | None = None) -> None:
    """Writes the checkpoint of ``source`` (a folder with .bin files, or a GGUF file) to ``target``.

    ``target`` is whole or absent: everything is written beside it first. ``progress`` is told
    (pieces done, pieces in all).

    Raises:
        ConfigError: ``target`` exists, or ``source`` is neither.
        UnsupportedModel, WeightError: the files cannot be converted.
    """
    if target.exists():
        raise ConfigError(f"{target} exists already")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.part-", dir=target.parent))
    try:
        if source.is_dir():
            _convert_bins(source, part, progress)
        elif source.suffix.lower() == ".gguf":
            convert_gguf(source, part, progress)
        else:
            raise ConfigError(f"{source}: expected a folder with .bin files, or a .gguf file")
        part.chmod(0o755)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def add_safetensors(folder: Path, progress: Progress | None = None) -> None:
    """Writes the weights of a folder's .bin files beside them, where readers look first.

    Raises:
        ConfigError: there are no .bin files. OSError: the folder cannot be written.
        UnsupportedModel, WeightError: the files cannot be converted.
    """
    part = Path(tempfile.mkdtemp(prefix=".safetensors.part-", dir=folder))
    try:
        _convert_weights(folder, part, progress)
        # The index last: a reader that finds it finds what it names.
        for path in sorted(part.iterdir(), key=lambda path: path.suffix == ".json"):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _convert_bins(source: Path, target: Path, progress: Progress | None) -> None:
    _convert_weights(source, target, progress)
    for path in source.iterdir():
        if path.is_file() and not any(path.match(pattern) for pattern in _WEIGHT_FILES):
            shutil.copyfile(path, target / path.name)


def _convert_weights(source: Path, target: Path, progress: Progress | None) -> None:
    shards = sorted(source.glob("pytorch_model*.bin"))
    if not shards:
        raise ConfigError(f"{source}: there is no pytorch_model*.bin")
    weight_map: dict[str, str] = {}
    size = 0
    for done, shard in enumerate(shards, start=1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{done:05}-of-{len(shards):05}.safetensors"
        tensors = _tensors(shard)
        _save(tensors, target / name)
        weight_map |= dict.fromkeys(tensors, name)
        size += sum(t.nbytes for t in tensors.values())
        if progress is not None:
            progress(done, len(shards))
    if len(shards) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _tensors(shard: Path) -> dict[str, Tensor]:
    found = load_bin(shard)
    strange = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if strange:
        raise WeightError(f"{shard}: {strange[:4]} are no tensors")
    # safetensors refuses tensors that share memory, which tied weights do.
    return {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes a file, reads it back and compares: the original is often deleted afterwards."""
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it readable by the owner alone
    written = load_file(path)
    wrong = [n for n, t in tensors.items() if not _same(t, written.get(n))]
    if wrong:
        raise WeightError(f"{path}: {wrong[:4]} differ after writing; is the disk full or broken?")


def _same(tensor: Tensor, other: Tensor | None) -> bool:
    """Bit for bit; NaN counts as equal to itself."""
    if other is None or tensor.dtype != other.dtype or tensor.shape != other.shape:
        return False
    return bool((tensor == other).logical_or(tensor != tensor).all())
