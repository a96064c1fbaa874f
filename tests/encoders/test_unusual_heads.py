"""Cross encoders and classifiers as people publish them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tiny.checkpoint import Variant
from tiny.encoders import SIZES, classifiers
from tiny.sentence import (
    MEAN,
    TEXTS,
    TRUNK,
    close,
    dense,
    encode,
    run,
    update,
    write_modules,
    write_trunk,
)
from torch import Tensor
from transformers import AlbertTokenizer

from atoll.catalogue import read_model
from atoll.config import Settings
from atoll.encoders.classifier import Classifier, ScoreOptions
from atoll.errors import ConfigError, UnsupportedModel

FAMILIES = ("roberta", "xlm-roberta", "camembert", "mpnet", "distilbert")
PAIRS = [("coral", "A ring of coral."), ("x", "y z"), ("A ring", "fish " * 30), ("ab", "ab")]
NAMED: dict[str, dict[str, Any]] = {
    "unnamed": {},
    "identity": {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
    "sigmoid": {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
    "tanh": {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}},
    "old": {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    "old-sigmoid": {"sbert_ce_default_activation_function": "torch.nn.Sigmoid"},
    "foreign": {"sentence_transformers": {"activation_fn": "my_code.Squash", "version": "4.1.0"}},
}


def score(folder: Path, texts: Any, is_raw: bool = False, **settings: Any) -> Tensor:
    """Atoll's scores, (texts, labels)."""
    found = run(folder, texts, Classifier(folder, Settings(**settings)), ScoreOptions(is_raw))
    return torch.stack([torch.from_numpy(row.scores) for row in found])


def predicted(folder: Path, pairs: Any = PAIRS) -> Tensor:
    """What sentence-transformers' CrossEncoder.predict answers, (pairs, labels)."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    found: Tensor = model.predict(pairs, convert_to_tensor=True)
    return found if found.dim() == 2 else found[:, None]


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """BERT cross encoders by their number of labels."""
    folders = {n: tmp_path_factory.mktemp(f"cross-{n}") for n in (1, 3)}
    for n, folder in folders.items():
        write_trunk(classifiers(n)[0], folder)
    return folders


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("name", NAMED)
def test_scores_equal_cross_encoder(
    name: str, num_labels: int, cross: dict[int, Path], tmp_path: Path
) -> None:
    """Where the files name no activation, several labels get the softmax of a pipeline."""
    folder = Path(shutil.copytree(cross[num_labels], tmp_path / "model"))
    update(folder / "config.json", **NAMED[name])
    expected = predicted(folder)
    if num_labels > 1 and name in ("unnamed", "foreign"):
        expected = expected.softmax(-1)
    close(score(folder, PAIRS), expected)
    assert read_model(folder).task == ("rerank" if num_labels == 1 else "classify")


def test_a_saved_cross_encoder(cross: dict[int, Path], tmp_path: Path) -> None:
    """Newer versions write modules.json, and the activation where the prompts are."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(cross[1]), device="cpu", activation_fn=torch.nn.Identity())
    model.save_pretrained(str(tmp_path))
    expected = torch.from_numpy(model.predict(PAIRS))[:, None]
    assert (tmp_path / "modules.json").exists() and float(expected.max()) > 1
    close(score(tmp_path, PAIRS), expected)
    assert read_model(tmp_path).task == "rerank"
    update(
        tmp_path / "config_sentence_transformers.json", activation_fn="torch.nn.modules.Softplus"
    )
    with pytest.raises(ConfigError, match="activation_fn is 'torch.nn.modules.Softplus'; known"):
        Classifier(tmp_path, Settings())


def test_a_cross_encoder_of_other_modules_is_refused(folder: Path) -> None:
    """It would answer with one-dimensional vectors if it were taken for an embedder."""
    head = dense("2_Dense", 1, "linear.Identity", True)
    write_modules(folder, TRUNK, MEAN, head)
    update(folder / "config_sentence_transformers.json", model_type="CrossEncoder")
    match = r"\['Transformer', 'Pooling', 'Dense'\] are not supported for task 'rerank'"
    with pytest.raises(UnsupportedModel, match=match):
        read_model(folder)


@pytest.mark.parametrize(
    ("problem_type", "score_of"),
    [
        ("regression", lambda logits: logits),
        ("multi_label_classification", torch.sigmoid),
        ("single_label_classification", lambda logits: logits.softmax(-1)),
        (None, lambda logits: logits.softmax(-1)),
    ],
)
def test_problem_types_equal_the_pipeline(
    problem_type: str | None, score_of: Callable[[Tensor], Tensor], cross: dict[int, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(cross[3], tmp_path / "model"))
    update(folder / "config.json", problem_type=problem_type)
    classify = hf.pipeline("text-classification", model=str(folder), device="cpu", top_k=None)
    theirs = [{row["label"]: row["score"] for row in found} for found in classify(TEXTS)]
    labels = read_model(folder).labels
    expected = torch.tensor([[row[label] for label in labels] for row in theirs])
    close(score(folder, TEXTS), expected)
    close(score_of(score(folder, TEXTS, is_raw=True)), expected)


@pytest.mark.parametrize("problem_type", ["regression", None])
def test_a_classifier_of_one_label(
    problem_type: str | None, cross: dict[int, Path], tmp_path: Path
) -> None:
    """A grade (fineweb-edu-classifier's) was squeezed by a sigmoid with task=classify, too, where a
    pipeline leaves it as it is. A reranker's score is CrossEncoder's all the same."""
    folder = Path(shutil.copytree(cross[1], tmp_path / "model"))
    update(folder / "config.json", problem_type=problem_type)
    classify = hf.pipeline("text-classification", model=str(folder), device="cpu")
    expected = torch.tensor([[found["score"]] for found in classify(TEXTS)])
    close(score(folder, TEXTS, task="classify"), expected)
    for task in (None, "rerank"):
        close(score(folder, PAIRS, task=task), predicted(folder))


@pytest.mark.parametrize("num_labels", [1, 2, 3])
def test_labels_without_names(num_labels: int, tmp_path: Path) -> None:
    write_trunk(classifiers(num_labels)[0], tmp_path)
    count = None if num_labels == 2 else num_labels
    update(tmp_path / "config.json", id2label=None, label2id=None, num_labels=count)
    assert score(tmp_path, PAIRS).shape == (len(PAIRS), num_labels)
    assert read_model(tmp_path).labels == tuple(f"LABEL_{i}" for i in range(num_labels))


@pytest.mark.parametrize("family", FAMILIES)
def test_families_without_segments(family: str, tmp_path: Path) -> None:
    """Their tokenizers may number the second text of a pair 1, which has no vector."""
    write_trunk(next(v for v in classifiers(1) if v.name == family), tmp_path)
    # transformers' limit, 70, leaves out that their positions begin at 2.
    update(
        tmp_path / "tokenizer_config.json", model_max_length=68,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    close(score(tmp_path, PAIRS), predicted(tmp_path))


def test_segments_of_albert(cross: dict[int, Path], tmp_path: Path) -> None:
    """It has them, unless transformers 5 wrote the tokenizer: its class for ALBERT gives none."""
    folder = Path(shutil.copytree(cross[1], tmp_path / "model"))
    file, names = folder / "tokenizer_config.json", AlbertTokenizer.model_input_names
    update(file, tokenizer_class="AlbertTokenizer", model_input_names=None)
    older = score(folder, PAIRS)
    update(file, backend="tokenizers")
    newer = score(folder, PAIRS)
    update(file, model_input_names=names)
    close(newer, score(folder, PAIRS))
    assert float((older - newer).abs().max()) > 1e-3


def test_a_five_star_camembert(tmp_path: Path) -> None:
    """distilcamembert-base-sentiment: the classes of CamembertForSequenceClassification."""
    stars = {i: f"{i + 1} star" for i in range(5)}
    config = hf.CamembertConfig(**SIZES, type_vocab_size=1, id2label=stars, layer_norm_eps=1e-5)
    variant = Variant("stars", lambda: hf.CamembertForSequenceClassification(config))
    model = write_trunk(variant, tmp_path)
    encoder = Classifier(tmp_path, Settings())
    assert encoder.spec.labels == tuple(stars.values())
    with torch.inference_mode():
        logits = [
            model(torch.tensor(e.ids[None])).logits[0] for e in encode(tmp_path, TEXTS, encoder)
        ]
    close(score(tmp_path, TEXTS), torch.stack(logits).softmax(-1))


@pytest.mark.parametrize("has_types", [True, False])
def test_segments_are_given_where_the_tokenizer_gives_them(
    has_types: bool, cross: dict[int, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(cross[1], tmp_path / "model"))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    update(folder / "tokenizer_config.json", model_input_names=names if has_types else names[::2])
    ours = score(folder, PAIRS)
    close(ours, predicted(folder))
    is_same = torch.allclose(ours, score(cross[1], PAIRS))
    assert is_same == has_types
