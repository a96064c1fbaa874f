"""Segments of pairs for which a model has no vector: named, and never looked up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from in_process import running
from tiny.encoders import classifiers
from tiny.foreign_encoders import write_foreign
from tiny.sentence import encode, update, write_trunk
from typer.testing import CliRunner

from atoll.cli.app import app
from atoll.config import Settings
from atoll.encoders.classifier import Classifier
from atoll.errors import ConfigError, ValidationError
from atoll.serving.tasks.classify import RerankModel

PAIRS = [("a query", "a document"), ("b", "x")]
MESSAGE = "has tokens of segment 1, by tokenizer.json; type_vocab_size is 1"


def _with_segments(folder: Path) -> None:
    """As PreTrainedTokenizerFast, which numbers the texts of a pair for every model."""
    names = ["input_ids", "token_type_ids", "attention_mask"]
    update(folder / "tokenizer_config.json", model_input_names=names)


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta-xl"])
def test_segments_that_the_model_lacks_are_named(kind: str, tmp_path: Path) -> None:
    """By the native file they counted as the first; transformers looks beyond the table."""
    if kind == "roberta":
        write_trunk(next(v for v in classifiers(1) if v.name == kind), tmp_path)
    else:
        write_foreign(kind, tmp_path, "classify", num_labels=1)
    encoder = Classifier(tmp_path, Settings())
    assert all(e.type_ids is None for e in encode(tmp_path, PAIRS, encoder))
    _with_segments(tmp_path)
    encoder = Classifier(tmp_path, Settings())
    with pytest.raises(ValidationError, match=rf"x\[0\] {MESSAGE}"):
        encode(tmp_path, PAIRS, encoder)
    assert encode(tmp_path, ["a", "b"], encoder)[1].type_ids is None


def test_a_reranker_that_could_score_no_pair_is_refused(tmp_path: Path) -> None:
    """By ``atoll info`` as well, which described it."""
    write_trunk(next(v for v in classifiers(1) if v.name == "roberta"), tmp_path)
    _with_segments(tmp_path)
    model: Any = RerankModel()
    with (
        pytest.raises(ConfigError, match=f"a pair {MESSAGE}"),
        running(model, model_id=str(tmp_path)),
    ):
        pass
    asked = ["info", str(tmp_path), "--json"]
    with pytest.raises(ConfigError, match=f"a pair {MESSAGE}"):
        CliRunner().invoke(app, asked, catch_exceptions=False)
    update(tmp_path / "tokenizer_config.json", model_input_names=["input_ids"])
    found = json.loads(CliRunner().invoke(app, asked, catch_exceptions=False).stdout)
    assert found["task"] == "rerank"
