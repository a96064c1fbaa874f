"""Scores of tokens against transformers: every family; packed equals solo."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny.checkpoint import Variant, write
from tiny.encoders import VOCAB, decoders_of_tokens, token_classifiers
from tiny.sentence import update

from atoll.config import Settings
from atoll.encoders.packer import Item, batch_of
from atoll.encoders.token_classifier import ScoredTokens, TokenClassifier
from atoll.errors import ConfigError, WeightError
from atoll.models.detect import read_model

GENERATOR = torch.Generator().manual_seed(11)
TEXTS = [torch.randint(5, VOCAB, (n,), generator=GENERATOR).tolist() for n in (1, 17, 5, 60)]


def _run(encoder: TokenClassifier, texts: list[list[int]]) -> list[ScoredTokens]:
    items = [Item(np.array(ids, np.int32), lambda result: None) for ids in texts]
    with torch.inference_mode():
        found = encoder(batch_of(items, encoder.options.device), items)
    return [row for row in found if isinstance(row, ScoredTokens)]


@pytest.mark.parametrize(
    "variant", [*token_classifiers(5), *decoders_of_tokens(5)], ids=lambda v: v.name
)
def test_scores_equal_transformers(variant: Variant, tmp_path: Path) -> None:
    reference = write(variant, tmp_path).model
    found = read_model(tmp_path)
    assert (found.task, len(found.labels)) == ("token_classify", 5)
    encoder = TokenClassifier(tmp_path, Settings(dtype="float32"))
    for ids, row in zip(TEXTS, _run(encoder, TEXTS), strict=True):
        with torch.inference_mode():
            expected = reference(torch.tensor([ids])).logits[0].softmax(-1).numpy()
        np.testing.assert_allclose(row.scores, expected, atol=1e-5)
        np.testing.assert_allclose(_run(encoder, [ids])[0].scores, expected, atol=1e-5)
        assert row.ids.tolist() == ids


def test_a_head_that_is_missing_or_of_another_size(tmp_path: Path) -> None:
    write(token_classifiers(5)[0], tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"4": "LABEL_4"', '"4": "a", "5": "b"'))
    with pytest.raises(WeightError, match="classifier.*6 labels"):
        TokenClassifier(tmp_path, Settings(dtype="float32"))


def test_a_decoders_head_without_a_bias_is_refused(tmp_path: Path) -> None:
    write(decoders_of_tokens(5)[0], tmp_path)
    update(tmp_path / "config.json", token_classification_bias=False)
    with pytest.raises(ConfigError, match="token_classification_bias is False; supported"):
        read_model(tmp_path)
