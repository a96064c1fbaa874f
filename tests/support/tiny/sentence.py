"""Tiny checkpoints in sentence-transformers' layouts, and Atoll's answers for texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from atoll.config import Settings
from atoll.encoders.embedder import Embedder, EmbedOptions
from atoll.encoders.packer import Item, batch_of
from atoll.errors import AtollError
from atoll.text.text_encoder import Encoded, TextEncoder
from atoll.text.tokenizer import Tokenizer
from tiny.checkpoint import Variant, write
from tiny.encoders import has_segments, write_text_files

OLD = "sentence_transformers.models"
HIDDEN = 48
TEXTS = ["coral", "A ring of coral, around a lagoon.", "fish " * 11, "x", "Two Reefs"]


class Part(NamedTuple):
    """A row of modules.json and the files of its folder."""

    type: str
    path: str = ""
    config: Mapping[str, Any] | None = None
    tensors: Mapping[str, Tensor] | None = None


def pooling(path: str = "1_Pooling", type: str = f"{OLD}.Pooling", **config: Any) -> Part:
    """A Pooling module with these keys in its file."""
    return Part(type, path, {"word_embedding_dimension": HIDDEN, **config})


def dense(path: str, size: int, activation: str | None, bias: bool, inputs: int = HIDDEN) -> Part:
    """A Dense module; activation: below ``torch.nn.modules``, left out of its file if None."""
    generator = torch.Generator().manual_seed(size)
    tensors = {"linear.weight": torch.randn(size, inputs, generator=generator) / 5}
    if bias:
        tensors["linear.bias"] = torch.randn(size, generator=generator)
    config = {"in_features": inputs, "out_features": size, "bias": bias}
    if activation is not None:
        config["activation_function"] = f"torch.nn.modules.{activation}"
    return Part(f"{OLD}.Dense", path, config, tensors)


TRUNK = Part(f"{OLD}.Transformer")
MEAN = pooling(pooling_mode_mean_tokens=True)
NORMALIZE = Part(f"{OLD}.Normalize", "9_Normalize")


def write_trunk(variant: Variant, folder: Path) -> Any:
    """A checkpoint with a tokenizer that transformers reads as it is; returns the model."""
    folder.mkdir(parents=True, exist_ok=True)
    model = write(variant, folder).model
    write_text_files(folder)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    if not has_segments(folder):
        names.remove("token_type_ids")
    update(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast", pad_token="[PAD]", sep_token="[SEP]",
        unk_token="[UNK]", model_max_length=int(1e30),
        model_input_names=names,
    )  # fmt: skip
    return model


def write_modules(folder: Path, *parts: Part) -> None:
    """modules.json and what its modules keep; the trunk is written apart."""
    rows = [{"idx": i, "name": str(i), "path": p.path, "type": p.type} for i, p in enumerate(parts)]
    (folder / "modules.json").write_text(json.dumps(rows))
    for part in parts:
        if part.path:
            (folder / part.path).mkdir(exist_ok=True)
        if part.config is not None:
            (folder / part.path / "config.json").write_text(json.dumps(part.config))
        if part.tensors is not None:
            save_file(dict(part.tensors), folder / part.path / "model.safetensors")


def update(path: Path, **changes: Any) -> None:
    """Changes keys of a JSON file, which is made if need be; None removes a key."""
    found = json.loads(path.read_text()) if path.exists() else {}
    found = {key: value for key, value in {**found, **changes}.items() if value is not None}
    path.write_text(json.dumps(found))


def encode(folder: Path, texts: Any, encoder: Any) -> list[Encoded]:
    """Token ids as serving makes them."""
    core = Tokenizer.load(folder).core
    text_encoder = TextEncoder(core, encoder.spec.max_length, encoder.num_token_types)
    return text_encoder.encode(texts, name="x", truncate=True)


def run(folder: Path, texts: Any, encoder: Any, options: Any) -> list[Any]:
    """The encoder's results of texts or pairs, in one pack."""
    items = [
        Item(e.ids, lambda result: None, e.type_ids, options)
        for e in encode(folder, texts, encoder)
    ]
    with torch.inference_mode():
        results: list[Any] = encoder(batch_of(items, torch.device("cpu")), items)
    return results


def embed(
    folder: Path,
    texts: Sequence[str] = TEXTS,
    normalize: bool = False,
    prompt_name: str | None = None,
    **settings: Any,
) -> Tensor:
    """Atoll's vectors, (texts, width)."""
    given = Settings(**settings)
    encoder = Embedder(folder, given)
    prompt = encoder.spec.prompt(given, prompt_name)
    found = run(folder, [prompt + t for t in texts], encoder, EmbedOptions(normalize))
    vectors = torch.stack([torch.from_numpy(row.vector) for row in found])
    assert vectors.shape[1] == encoder.dimensions
    return vectors


def close(ours: Tensor, theirs: Tensor) -> None:
    """Asserts equality up to float32's rounding."""
    assert ours.shape == theirs.shape
    limit = 2e-5 * max(1.0, float(theirs.std(correction=0)))
    assert float((ours.double() - theirs.double()).abs().max()) <= limit


def refused(folder: Path, kind: type[AtollError], match: str, **settings: Any) -> None:
    with pytest.raises(kind, match=match):
        Embedder(folder, Settings(**settings))
