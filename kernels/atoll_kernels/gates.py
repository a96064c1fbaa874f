"""What recurrent layers make of a projection before their states change, in float32."""

import math

from torch import Tensor

from atoll_kernels import dispatch


def time_steps(
    x: Tensor, bias: Tensor | None = None, limits: tuple[float, float] = (0.0, math.inf)
) -> Tensor:
    """Mamba's: ``clamp(softplus(x + bias), *limits)``.

    Args:
        x: (tokens, heads or channels); rows may be strided. bias: float32, of a token.

    Returns:
        float32 of the shape of x, contiguous.
    """
    result: Tensor = dispatch.run("time_steps", x, bias, limits)
    return result


def delta_gates(a: Tensor, b: Tensor, rate: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The gated delta rule's: log decays ``rate * softplus(a + bias)``, strengths ``sigmoid(b)``.

    Args:
        a, b: (tokens, heads); rows may be strided. rate, bias: (heads,) float32; rate <= 0.

    Returns:
        Both (tokens, heads) float32, contiguous.
    """
    result: tuple[Tensor, Tensor] = dispatch.run("delta_gates", a, b, rate, bias)
    return result
