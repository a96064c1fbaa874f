"""GGUF in, a checkpoint folder out: with the tensors where they are, or expanded to float32.

``prepare`` writes the small files of a checkpoint and an index of the tensors, which ``GgufReader``
reads in place; ``convert`` writes what the hub would have, with every tensor in float32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from atoll.errors import UnsupportedModel
from atoll.weights.gguf.config import read_config, token_ids
from atoll.weights.gguf.encoders import ENCODER_ARCHITECTURES, pooling_files
from atoll.weights.gguf.file import INSTEAD, GgufFile
from atoll.weights.gguf.index import NAME, Index
from atoll.weights.gguf.reader import GgufReader
from atoll.weights.gguf.tokenizer import build_tokenizer, end_ids, tokenizer_config
from atoll.weights.progress import Progress


def prepare(path: Path, folder: Path, progress: Progress | None = None) -> None:
    """Writes into an existing empty ``folder`` all but the tensors of the model that a file holds.

    Raises:
        UnsupportedModel: an architecture, a key or a tokenizer that is not known; names it.
        WeightError: the file is damaged.
    """
    file = GgufFile.open(path)
    config, is_encoder = read_config(file), file.architecture in ENCODER_ARCHITECTURES
    pooling = pooling_files(file)
    tokenizer = build_tokenizer(file.metadata, file.architecture, str(path), is_encoder)
    _write_json(folder / "config.json", config)
    if not is_encoder:
        _write_json(folder / "generation_config.json", _generation(file))
    tokenizer.save(str(folder / "tokenizer.json"))
    length = int(file.metadata.get(f"{file.architecture}.context_length", 0))
    about = tokenizer_config(file.metadata, length, is_encoder, config.get("type_vocab_size"))
    _write_json(folder / "tokenizer_config.json", about)
    for name, value in pooling.items():
        (folder / name).parent.mkdir(exist_ok=True)
        _write_json(folder / name, value)
    Index.of(file).save(folder)
    if progress is not None:
        progress(1, 1)


def convert(path: Path, folder: Path, progress: Progress | None = None) -> None:
    """Writes the checkpoint that a GGUF file holds into an existing empty ``folder``.

    ``progress`` is told (tensors done, tensors in all).

    Raises:
        UnsupportedModel: as ``prepare``; or transformers has tensors of this family under names
            that the file's do not become.
        WeightError: the file is damaged.
    """
    from safetensors.torch import save_file

    prepare(path, folder)
    reader = GgufReader(folder)
    names = [name for name in _hub_names(folder) if name in reader]
    tensors = {}
    for done, name in enumerate(names, start=1):
        tensors[name] = reader.tensor(name).float().contiguous()
        if progress is not None:
            progress(done, len(names))
    left = [name for name in reader.names() if name not in reader.read]
    if left:
        raise UnsupportedModel(f"{path}: {left[:4]} cannot be written as safetensors{INSTEAD}")
    target = folder / "model.safetensors"
    save_file(tensors, str(target), metadata={"format": "pt"})
    target.chmod(0o644)  # safetensors makes it readable by the owner alone
    (folder / NAME).unlink()


def _generation(file: GgufFile) -> dict[str, Any]:
    ids: dict[str, Any] = dict(token_ids(file.metadata))
    ends = end_ids(file.metadata)
    return ids | ({"eos_token_id": ends[0] if len(ends) == 1 else ends} if ends else {})


def _hub_names(folder: Path) -> list[str]:
    """What transformers' class for a config.json calls its tensors."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    (name,) = config.architectures
    with torch.device("meta"):
        model = getattr(transformers, name)(config)
    return list(model.state_dict())


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
