"""LayerNorm and RMSNorm, fused with the residual addition or with a gate."""

from torch import Tensor

from atoll_kernels import dispatch


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """LayerNorm of ``x + residual``; statistics in float32.

    Args:
        x, residual: (tokens, hidden). weight, bias: (hidden,) or None.

    Returns:
        The normalised rows, and the sum ``x + residual`` (``x`` itself without a residual).
    """
    result: tuple[Tensor, Tensor] = dispatch.run("layer_norm", x, weight, bias, eps, residual)
    return result


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """RMSNorm of ``x + residual`` (Zhang & Sennrich 2019): x / sqrt(mean(x^2) + eps) * weight.

    Args:
        x, residual: (tokens, hidden). weight: (hidden,) of the dtype of x, or float32; its dtype is
            that of the normalised values which it multiplies.

    Returns:
        The normalised rows, and the sum ``x + residual`` (``x`` itself without a residual).
    """
    result: tuple[Tensor, Tensor] = dispatch.run("rms_norm", x, weight, eps, residual)
    return result


def grouped_rms_norm(
    x: Tensor, weight: Tensor, eps: float, group_size: int, gate: Tensor | None = None,
    is_gate_first: bool = False,
) -> Tensor:  # fmt: skip
    """RMSNorm of each group of features; with a gate, of ``x * silu(gate)``, or times that silu.

    Args:
        x, gate: (tokens, features), a multiple of ``group_size``; rows may be strided.
        weight: (features,), or (group_size,) for all groups; of the dtype of x, or float32, to
            which the normalised values are rounded before and after they are scaled.
        is_gate_first: whether the gate is applied before the norm.

    Returns:
        (tokens, features), contiguous, dtype of x.
    """
    result: Tensor = dispatch.run(
        "grouped_rms_norm", x, weight, eps, group_size, gate, is_gate_first
    )
    return result
