"""Mixture of experts: every token passes through the gated MLPs that its router chooses."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from atoll_kernels import dispatch
from atoll_kernels.linear import PackedLinear


@dataclass(frozen=True)
class Routing:
    """How a token's experts and their shares follow from the router's logits.

    top_k: experts of a token. scores: of each expert, in float32: softmax over all of them, or a
    sigmoid. renormalize: a token's shares are made to sum to one. scaling: then multiplies them.
    num_groups: equal parts of the experts, in their order, of which a token's experts are in the
    ``top_groups`` best; a group is as good as the sum of its ``best_of_group`` best experts
    (DeepSeek V2 takes 1, V3 takes 2).
    """

    top_k: int
    scores: Literal["softmax", "sigmoid"] = "softmax"
    renormalize: bool = True
    scaling: float = 1.0
    num_groups: int = 1
    top_groups: int = 1
    best_of_group: int = 1

    @property
    def is_plain(self) -> bool:
        """Whether it is softmax and the best ``top_k``, without scaling or groups."""
        return self.scores == "softmax" and self.scaling == 1.0 and self.num_groups == 1


def route(
    logits: Tensor,
    routing: Routing,
    correction: Tensor | None = None,
    expert_scales: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The experts of each token, and their shares.

    Args:
        logits: (tokens, num_experts).
        correction: (num_experts,) float32, added to the scores where experts and groups are
            chosen, but not to the shares (DeepSeek V3's e_score_correction_bias).
        expert_scales: (num_experts,) float32, which multiply the shares at the end (Gemma 4).

    Returns:
        chosen (tokens, top_k) int32, and shares (tokens, top_k) float32.
    """
    result: tuple[Tensor, Tensor] = dispatch.run(
        "route", logits, routing, correction, expert_scales
    )
    return result


class PackedExperts(ABC):
    """The experts' weights in the layout that a subclass multiplies by.

    reads_on_host: whether every call copies the experts' row counts to the host.
    """

    reads_on_host = False

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        router_logits: Tensor,
        routing: Routing,
        activation: str,
        correction: Tensor | None = None,
        expert_scales: Tensor | None = None,
    ) -> Tensor:
        """See ``mixture_of_experts``."""


def pack_experts(gate_up: Sequence[PackedLinear], down: Sequence[PackedLinear]) -> PackedExperts:
    """Packs (hidden -> 2 * inter) and (inter -> hidden) layers, one of each per expert.

    May stack their tensors, and replaces those of each layer by views of the stack.
    """
    first = gate_up[0].tensors[0]
    result: PackedExperts = dispatch.run("pack_experts", first, tuple(gate_up), tuple(down))
    return result


def mixture_of_experts(
    x: Tensor,
    router_logits: Tensor,
    experts: PackedExperts,
    routing: Routing,
    activation: str,
    correction: Tensor | None = None,
    expert_scales: Tensor | None = None,
) -> Tensor:
    """The sum over each token's experts of ``share * down(act(gate) * up)``.

    Args:
        x: (tokens, hidden). router_logits: (tokens, num_experts). correction, expert_scales: as of
            ``route``, which says which experts these are, and their shares.

    Returns:
        (tokens, hidden), dtype of x.
    """
    return experts.forward(x, router_logits, routing, activation, correction, expert_scales)
