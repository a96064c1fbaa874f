"""One thread for torch; rows of logits and the texts that they continue."""

import numpy as np
import pytest
import torch
from one_thread import one_thread
from sampled_rows import (
    ROWS,
    VOCAB,
)
from torch import Tensor

__all__ = ["one_thread"]


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(ROWS, VOCAB, generator=torch.Generator().manual_seed(0)) * 4


@pytest.fixture
def contexts() -> list[tuple[list[int], list[int]]]:
    """(prompt, output) of each row, over a small alphabet, so that tokens and n-grams repeat."""
    generator = np.random.default_rng(1)
    return [
        (generator.integers(0, 12, 5 + i).tolist(), generator.integers(0, 12, 3 * i).tolist())
        for i in range(ROWS)
    ]
