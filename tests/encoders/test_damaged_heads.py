"""What sits on an encoder's trunk, damaged: Pooling, Dense, classifiers' and SPLADE's heads.

Each key and each tensor, left out or of another kind: sentence-transformers' result, or an error
that names it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny.checkpoint import Variant, write
from tiny.encoders import FILLERS, TRUNKS, classifiers, write_text_files
from tiny.sentence import MEAN, NORMALIZE, TRUNK, dense, embed, write_modules, write_trunk
from torch import Tensor

from atoll.config import Settings
from atoll.encoders.classifier import Classifier
from atoll.encoders.embedder import Embedder
from atoll.encoders.sparse_embedder import SparseEmbedder
from atoll.errors import AtollError, ConfigError, WeightError
from atoll.weights.modules import read_modules

WRONG = ["text", 0, -1, 1.5, float("nan"), True, False, [], [3], {"a": 1}, None, 1 << 40]
TEXTS = ["coral", "Two Reefs, x"]


def outcome(load: Callable[[], object]) -> object:
    """What loading gives, or the error; none of Python's own may come out."""
    try:
        return load()
    except AtollError as error:
        return error


def named(found: object, word: str) -> bool:
    return isinstance(found, AtollError) and word in str(found)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("embedder") / "model"
    write_trunk(TRUNKS[0], folder)
    write_modules(folder, TRUNK, MEAN, dense("2_Dense", 20, "activation.Tanh", True), NORMALIZE)
    return folder


def theirs(folder: Path) -> Tensor | None:
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        found: Tensor = model[:3].encode(TEXTS, convert_to_tensor=True)
    except Exception:
        return None
    return found


def _is_same(ours: object, other: Tensor | None) -> bool:
    return (
        isinstance(ours, Tensor) and other is not None and ours.shape == other.shape
        and float((ours - other).abs().max()) < 1e-5
    )  # fmt: skip


@pytest.mark.parametrize("name", ["1_Pooling", "2_Dense"])
def test_keys_of_modules(name: str, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    path = folder / name / "config.json"
    config = json.loads(path.read_text())
    more = {"1_Pooling": ("pooling_mode", "include_prompt"), "2_Dense": ("use_residual",)}
    keys = {*config, *more[name]}
    expected, wrong = embed(folder, TEXTS), []
    for key in sorted(keys):
        rest = {k: v for k, v in config.items() if k != key}
        for change in ({}, *({key: value} for value in WRONG)):
            path.write_text(json.dumps({**rest, **change}))
            found = outcome(lambda: embed(folder, TEXTS))
            is_right = named(found, key) or _is_same(found, expected)
            if not is_right and not _is_same(found, theirs(folder)):
                wrong.append(f"{key} {change}: {found}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("modules.json", '[{"type": 5, "path": ""}]'),
        ("modules.json", '[{"type": "sentence_transformers.models.Transformer", "path": 5}]'),
        ("modules.json", '[{"path": ""}]'),
        ("modules.json", '[{"type": "sentence_transfo'),
        ("modules.json", "{}"),
        ("modules.json", "[5]"),
        ("1_Pooling/config.json", "{"),
        ("1_Pooling/config.json", "[]"),
        ("1_Pooling/config.json", '{"word_embedding_dimension": 64}'),
        ("1_Pooling/config.json", '{"pooling_mode": []}'),
        ("1_Pooling/config.json", '{"pooling_mode": ["mean", "foo"]}'),
        ("2_Dense/config.json", ""),
        ("2_Dense/config.json", '{"in_features": 32, "out_features": 20}'),
        ("2_Dense/model.safetensors", ""),
        ("config_sentence_transformers.json", "[]"),
    ],
)
def test_files_that_are_broken(name: str, text: str, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    (folder / name).write_text(text)
    # The folder of a module is what its tensors are told with.
    assert named(outcome(lambda: Embedder(folder, Settings())), name.split("/")[0])


def test_a_dense_module_of_another_width_than_the_pooling(whole: Path, tmp_path: Path) -> None:
    """The first request failed."""
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": ["cls", "mean"]}')
    assert len(read_modules(folder)) == 4
    with pytest.raises(ConfigError, match="2_Dense: in_features is 48; what it is given has 96"):
        Embedder(folder, Settings())


def _damages(tensors: dict[str, Tensor], stem: str = "") -> dict[str, dict[str, Tensor]]:
    found = {}
    for name, tensor in tensors.items():
        if not name.startswith(stem):
            continue
        rest = {n: t for n, t in tensors.items() if n != name}
        found[f"{name} left out"] = rest
        found[f"{name} longer"] = {**rest, name: torch.cat([tensor, tensor[:1]])}
        found[f"{name} integers"] = {**rest, name: tensor.int()}
        if tensor.dim() == 2 and tensor.shape[0] != tensor.shape[1]:
            found[f"{name} transposed"] = {**rest, name: tensor.t().contiguous()}
    assert found
    return found


def _check_tensors(path: Path, stem: str, load: Callable[[], object], *spare: str) -> None:
    tensors, wrong = load_file(path), []
    for what, damaged in _damages(tensors, stem).items():
        save_file(damaged, path)
        found = outcome(load)
        name, _, how = what.partition(" ")
        is_right = isinstance(found, WeightError) and name in str(found)
        if not is_right and not (name in spare and how == "left out"):
            wrong.append(f"{what}: {found}")
    save_file(tensors, path)
    assert not wrong, "\n".join(wrong)


def test_tensors_of_a_dense_module(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    _check_tensors(
        folder / "2_Dense" / "model.safetensors", "linear", lambda: Embedder(folder, Settings())
    )


# The names of a head's tensors begin so.
CLASSIFIER_HEADS = {
    "bert": ("classifier", "bert.pooler"),
    "roberta": ("classifier",),
    "distilbert": ("classifier", "pre_classifier"),
    "albert": ("classifier", "albert.pooler"),
    "modernbert-cls": ("classifier", "head"),
    "gte": ("classifier", "gte.pooler"),
    "nomic": ("classifier", "nomic_bert.pooler"),
    "deberta": ("classifier", "pooler"),
}
LANGUAGE_HEADS = {
    "splade": ("cls.predictions", "cls.predictions.decoder.weight"),
    "distilbert": ("vocab_", "vocab_projector.weight"),
    "electra": ("generator_", "generator_lm_head.weight"),
    "albert": ("predictions", "predictions.decoder.weight"),
    "modernbert": ("head", "decoder.weight"),
    "gte": ("lm_head", "lm_head.decoder.weight"),
    "nomic": ("cls.predictions", "cls.predictions.decoder.weight"),
    "deberta": ("lm_predictions", "lm_predictions.lm_head.decoder.weight"),
}


def _named_in(names: Any, variants: list[Variant]) -> list[Variant]:
    return [v for v in variants if v.name in names]


@pytest.mark.parametrize(
    "variant", _named_in(CLASSIFIER_HEADS, classifiers(3)), ids=lambda v: v.name
)
def test_tensors_and_labels_of_a_classifier(variant: Any, tmp_path: Path) -> None:
    write(variant, tmp_path)
    write_text_files(tmp_path)
    settings = Settings(task="classify")
    load = lambda: Classifier(tmp_path, settings)  # noqa: E731
    for stem in CLASSIFIER_HEADS[variant.name]:
        _check_tensors(tmp_path / "model.safetensors", stem, load)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    labels = {"0": "a", "1": "b", "2": "c"}
    changes: dict[str, Any] = {
        "id2label": [
            {"0": "a"}, {"0": "a", "1": "b"}, {"1": "a", "2": "b", "3": "c"}, ["a", "b", "c"], 5,
            {"x": "a", "y": "b", "z": "c"}, {"0": "a", "00": "b", "2": "c"}, "abc", {},
        ],
        "num_labels": [2, 4, "3", 0, -1, 1.5, True],
        "problem_type": ["foo", 5, []],
    }  # fmt: skip
    for key, values in changes.items():
        for value in values:
            path.write_text(json.dumps({**config, "id2label": labels, key: value}))
            assert named(outcome(load), key), f"{key} = {value}"


@pytest.mark.parametrize("variant", _named_in(LANGUAGE_HEADS, FILLERS), ids=lambda v: v.name)
def test_tensors_of_a_masked_language_head(variant: Variant, tmp_path: Path) -> None:
    """A SPLADE model whose bias was missing answered without one."""
    write(variant, tmp_path)
    write_text_files(tmp_path)
    settings = Settings(task="sparse", pooling="splade")
    stem, shared = LANGUAGE_HEADS[variant.name]
    # The head shares the words' vectors, and has its bias under either of two names.
    _check_tensors(
        tmp_path / "model.safetensors", stem, lambda: SparseEmbedder(tmp_path, settings), shared
    )
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "tie_word_embeddings": False}))
    assert named(outcome(lambda: SparseEmbedder(tmp_path, settings)), f"{shared}' is missing")
