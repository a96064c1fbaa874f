"""Tables of word vectors against sentence-transformers, and against model2vec's description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tiny.static import SIZE, TEXTS, WIDTH, write_static

from atoll.config import Settings
from atoll.encoders.embedder import Embedded, EmbedOptions
from atoll.encoders.packer import Item, batch_of
from atoll.encoders.static_embedder import StaticEmbedder
from atoll.errors import AtollError, ConfigError, UnsupportedModel
from atoll.models.detect import decide, read_model
from atoll.text.text_encoder import TextEncoder
from atoll.text.tokenizer import Tokenizer


def _vectors(folder: Path, normalize: bool = False, **given: Any) -> np.ndarray[Any, Any]:
    """As the server computes them, all texts in one batch."""
    encoder = StaticEmbedder(folder, Settings(dtype="float32", device="cpu", **given))
    text_encoder = TextEncoder(
        Tokenizer.load(folder).core, encoder.spec.max_length, vocab_size=encoder.vocab_size
    )
    encoded = text_encoder.encode(TEXTS, name="t", truncate=True, add_special_tokens=False)
    options = EmbedOptions(normalize=normalize)
    items = [Item(e.ids, lambda _: None, options=options) for e in encoded]
    with torch.inference_mode():
        found = encoder(batch_of(items, torch.device("cpu")), items)
    return np.stack([row.vector for row in found if isinstance(row, Embedded)])


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("plain", ""), ("plain", "."), ("plain", "0_StaticEmbedding"), ("normalized", "0_Static"),
        ("weights", ""), ("mapping", ""), ("cut", ""), ("half", ""),
    ],
)  # fmt: skip
def test_static_embedding_equals_sentence_transformers(
    kind: str, path: str, tmp_path: Path
) -> None:
    write_static(tmp_path, kind, path)
    theirs = SentenceTransformer(str(tmp_path), device="cpu").float().encode(TEXTS)
    ours = _vectors(tmp_path, normalize=kind == "normalized")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    found = read_model(tmp_path)
    assert (found.task, found.embedding_size, found.pooling) == ("embed", WIDTH, "mean")


@pytest.mark.parametrize("kind", ["plain", "weights", "mapping", "half"])
def test_model2vec_folders_equal_their_description(kind: str, tmp_path: Path) -> None:
    """mean over the tokens but the unknown ones of embeddings[mapping[id]] * weights[id]."""
    tensors = write_static(tmp_path, kind, None)
    core = Tokenizer.load(tmp_path).core
    table = tensors["embeddings"].double().numpy()
    mapping = tensors["mapping"].numpy() if "mapping" in tensors else np.arange(SIZE)
    weights = tensors["weights"].double().numpy() if "weights" in tensors else np.ones(SIZE)
    expected = []
    for text in TEXTS:
        ids = [i for i in core.encode(text, add_special_tokens=False).ids if i != 1]
        rows = [table[mapping[i]] * weights[i] for i in ids]
        mean = np.mean(rows, axis=0) if rows else np.zeros(WIDTH)
        expected.append(mean / max(float(np.linalg.norm(mean)), 1e-12))
    np.testing.assert_allclose(_vectors(tmp_path, normalize=True), expected, atol=1e-5)
    assert read_model(tmp_path).model_type == "model2vec"


def test_what_info_says_without_the_weights(tmp_path: Path) -> None:
    """It fetches none from the hub; the width is known from them alone."""
    write_static(tmp_path, "plain", "")
    (tmp_path / "model.safetensors").unlink()
    found = read_model(tmp_path)
    assert (found.task, found.embedding_size) == ("embed", 0)
    assert "which is not here" in found.notes[0]


def test_a_dense_module_after_the_table(tmp_path: Path) -> None:
    """Of StaticEmbedding, too; its vectors have another width."""
    write_static(tmp_path, "plain", "")
    modules = json.loads((tmp_path / "modules.json").read_text())
    kind = "sentence_transformers.models.Dense"
    modules.append({"idx": 1, "name": "1", "path": "1_Dense", "type": kind})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Dense").mkdir()
    sizes = {"in_features": WIDTH, "out_features": 6, "bias": True}
    activation = {"activation_function": "torch.nn.modules.activation.Tanh"}
    (tmp_path / "1_Dense" / "config.json").write_text(json.dumps({**sizes, **activation}))
    weights = {"linear.weight": torch.randn(6, WIDTH), "linear.bias": torch.randn(6)}
    save_file(weights, tmp_path / "1_Dense" / "model.safetensors")
    theirs = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(_vectors(tmp_path), theirs, atol=1e-5)
    assert read_model(tmp_path).embedding_size == 6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"task": "classify"},
            "a table of word vectors embeds texts; it is not for task 'classify'",
        ),
        ({"pooling": "cls"}, "pooling is 'cls'; .*whose pooling is mean"),
        ({"dtype": "int8"}, "dtype is 'int8'.*no effect"),
        ({"quantize": "gptq"}, "quantize is 'gptq'.*no effect"),
    ],
)
def test_settings_that_mean_nothing_here(
    given: dict[str, str], message: str, tmp_path: Path
) -> None:
    write_static(tmp_path, "plain", "")
    with pytest.raises((ConfigError, UnsupportedModel), match=message):
        decide(tmp_path, Settings(model_id="m", **given))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"embedding.weight": (SIZE, WIDTH), "dyt.alpha": (3,)}, "tensors .*dyt.alpha.* not supp"),
        ({"embeddings": (SIZE,)}, "none of embedding.weight, embeddings is a matrix"),
        ({"embeddings": (SIZE, WIDTH), "weights": (SIZE - 1,)}, "weights has .* numbers for"),
        ({"embeddings": (SIZE, WIDTH), "weights": (SIZE, 1)}, r"weights has shape .*one\s+number"),
        ({"embeddings": (4, WIDTH), "mapping": (SIZE,)}, "mapping names rows beyond 4"),
    ],
)
def test_damaged_tables(tensors: dict[str, tuple[int, ...]], message: str, tmp_path: Path) -> None:
    write_static(tmp_path, "plain", "")
    made = {
        name: torch.full(shape, 7) if name == "mapping" else torch.randn(shape)
        for name, shape in tensors.items()
    }
    save_file(made, tmp_path / "model.safetensors")
    with pytest.raises(AtollError, match=message):
        StaticEmbedder(tmp_path, Settings(dtype="float32", device="cpu"))
