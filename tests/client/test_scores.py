"""Scores keep the order of the logits, however large those are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from atoll_client.scores import apply, of_labels, of_texts

LOGITS = st.lists(st.floats(-2000, 2000, width=32), min_size=1, max_size=12)


def test_what_is_one_in_float32_keeps_its_order() -> None:
    """A reranker's logits from 25 to 32 all became 1.0, in the order of the input, and the best
    document was beyond ``top_n``."""
    logits = np.array([[25.0], [32.0], [27.5], [31.0]], np.float32)
    found = of_texts(logits, "sigmoid")
    assert found.order == [1, 3, 2, 0]
    # A client that sorts by the scores itself sees the same.
    assert sorted(range(4), key=lambda i: -found.values[i]) == found.order
    np.testing.assert_allclose(found.values, special.expit(logits[:, 0].astype(float)), rtol=1e-15)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "identity", "softmax"])
def test_another_logit_is_another_score(activation: str) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(LOGITS)
    def check(rows: list[float]) -> None:
        logits = np.array(rows, np.float32)
        exact = {
            "sigmoid": special.expit, "tanh": np.tanh, "identity": np.array,
            "softmax": special.softmax,
        }[activation](logits.astype(np.float64))  # fmt: skip
        (found,) = of_labels(logits[None], activation)
        values = np.array(found.values)
        np.testing.assert_allclose(values, exact, rtol=1e-12, atol=1e-15)
        assert found.order == np.argsort(-logits, kind="stable").tolist()
        assert (np.sign(np.subtract.outer(values, values))
                == np.sign(np.subtract.outer(logits, logits))).all()  # fmt: skip

    check()


@pytest.mark.parametrize("noise", [(0, 0, 1), (1, 0, 0), (0, 1, -1), (-1, 1, 0)])
def test_equal_logits_at_the_middle_are_equal_scores(
    monkeypatch: pytest.MonkeyPatch, noise: tuple[int, ...]
) -> None:
    """A vector's lanes and its rest are rounded apart on some processors: 0.5 and 0.5 + 1e-16."""
    rounded = 0.5 + np.array([noise]) * np.spacing(0.5)
    monkeypatch.setattr("atoll_client.scores.apply", lambda logits, activation: rounded)
    (found,) = of_labels(np.array([[0.0, 1.2e-38, 1.2e-38]], np.float32), "sigmoid")
    assert found.values[0] < found.values[1] == found.values[2]
    assert found.order == [1, 2, 0]


def test_texts_are_no_labels_of_each_other() -> None:
    """A reranker whose files name a softmax scores each text by itself: 1, whatever the logit."""
    found = of_texts(np.array([[1.0], [3.0]], np.float32), "softmax")
    np.testing.assert_allclose(found.values, 1.0)
    assert found.order == [1, 0] and found.values[1] > found.values[0]
    rows = of_labels(np.array([[45.0], [52.0], [45.0]], np.float32), "sigmoid")
    first, second, third = (row.values[0] for row in rows)
    assert first == third < second
    assert apply(np.zeros(2), "sigmoid").tolist() == [0.5, 0.5]
