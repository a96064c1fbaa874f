"""A mixture of experts: every token goes through the gated MLPs that its router picks."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from atoll_kernels import dispatch
from atoll_kernels.linear import PackedLinear


@dataclass
class PackedExperts:
    """The experts' weights in the layout that ``layout``'s implementation wants.

    loop: the linear layers one by one. gpu: stacked along a first dimension; ``bits`` is 16 for
    dense weights of any dtype, ``group`` the inputs that share a scale (or a common divisor).
    """

    layout: str
    layers: tuple[tuple[PackedLinear, PackedLinear], ...] = ()
    gate_up: tuple[Tensor, ...] = ()
    down: tuple[Tensor, ...] = ()
    bits: int = 16
    group: int = 0

    @property
    def reads_on_host(self) -> bool:
        """Whether the host waits for the experts' counts of rows in every call."""
        return self.layout == "loop"


def pack_experts(gate_up: Sequence[PackedLinear], down: Sequence[PackedLinear]) -> PackedExperts:
    """Packs (hidden -> 2 * inter) and (inter -> hidden) layers, one of each per expert.

    May move their tensors into one stack, and then makes each layer a view of it.
    """
    first = gate_up[0].tensors[0]
    result: PackedExperts = dispatch.run("pack_experts", first, tuple(gate_up), tuple(down))
    return result


def mixture_of_experts(
    x: Tensor, router_logits: Tensor, experts: PackedExperts, top_k: int, activation: str
) -> Tensor:
    """The sum over each token's ``top_k`` experts of ``share * down(act(gate) * up)``.

    Args:
        x: (tokens, hidden). router_logits: (tokens, num_experts).

    The shares are the softmax over all experts in float32, of the best ``top_k``, made to sum to 1.

    Returns:
        (tokens, hidden), dtype of x.
    """
    result: Tensor = dispatch.run(
        "mixture_of_experts", x, router_logits, experts, top_k, activation
    )
    return result
