"""The choice of experts, against each rule written out token by token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atoll_kernels import Routing, route

EXPERTS = 12


def _expected(
    logits: Tensor, routing: Routing, correction: Tensor | None, scales: Tensor
) -> dict[int, float]:
    """The experts of one token and their shares, in float64."""
    wide = logits.double()
    scores = (wide.softmax(0) if routing.scores == "softmax" else wide.sigmoid()).tolist()
    added = [0.0] * EXPERTS if correction is None else correction.double().tolist()
    ranked = [score + more for score, more in zip(scores, added, strict=True)]
    size = EXPERTS // routing.num_groups
    groups = [range(i, i + size) for i in range(0, EXPERTS, size)]

    def value(group: range) -> float:
        return sum(sorted((ranked[i] for i in group), reverse=True)[: routing.best_of_group])

    best = sorted(groups, key=value, reverse=True)[: routing.top_groups]
    allowed = [i for group in best for i in group]
    chosen = sorted(allowed, key=lambda i: ranked[i], reverse=True)[: routing.top_k]
    total = sum(scores[i] for i in chosen) if routing.renormalize else 1.0
    return {i: scores[i] / total * routing.scaling * scales[i].item() for i in chosen}


@pytest.mark.parametrize(
    ("routing", "is_corrected"),
    [
        (Routing(3), False),
        (Routing(3, renormalize=False, scaling=2.5), False),
        (Routing(4, "softmax", False, 16.0, 6, 3, 1), False),
        (Routing(4, "sigmoid", True, 2.5, 4, 2, 2), True),
        (Routing(4, "sigmoid", False, 1.8), True),
    ],
    ids=["softmax", "scaled", "deepseek-v2", "deepseek-v3", "one-group"],
)
def test_routing(routing: Routing, is_corrected: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(50, EXPERTS, generator=generator)
    correction = torch.randn(EXPERTS, generator=generator) if is_corrected else None
    scales = torch.rand(EXPERTS, generator=generator)
    chosen, shares = route(logits, routing, correction, scales)
    assert chosen.dtype == torch.int32 and shares.dtype == torch.float32
    for row, found, weights in zip(logits, chosen.tolist(), shares.tolist(), strict=True):
        expected = _expected(row, routing, correction, scales)
        assert dict(zip(found, weights, strict=True)) == pytest.approx(expected, rel=1e-5)


def test_scores_of_zero_are_shared_without_a_division_by_zero() -> None:
    _, shares = route(torch.full((1, EXPERTS), -200.0), Routing(2, "sigmoid"))
    assert shares.tolist() == [[0.0, 0.0]]
