"""Mixture of experts: every token passes through the gated MLPs that its router chooses."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from atoll_kernels import dispatch
from atoll_kernels.linear import PackedLinear


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
        top_k: int,
        activation: str,
        renormalize: bool = True,
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
    top_k: int,
    activation: str,
    renormalize: bool = True,
) -> Tensor:
    """The sum over each token's ``top_k`` experts of ``share * down(act(gate) * up)``.

    Args:
        x: (tokens, hidden). router_logits: (tokens, num_experts).

    The shares are the ``top_k`` largest of the softmax over all experts (float32), made to sum to
    one if ``renormalize``.

    Returns:
        (tokens, hidden), dtype of x.
    """
    return experts.forward(x, router_logits, top_k, activation, renormalize)
