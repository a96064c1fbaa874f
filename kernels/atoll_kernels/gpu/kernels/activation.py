"""Activations, alone, gated, and as the epilogue of a matrix product; computed in float32."""

import triton
import triton.language as tl


@triton.jit
def apply_activation(x, CODE: tl.constexpr):
    """CODE: an ``Activation``. tanh is computed by the sigmoid: the interpreter has none."""
    if CODE == 1:
        x = 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))
    elif CODE == 2:
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif CODE == 3:
        # NaN stays NaN, as in torch.
        x = tl.where(x < 0.0, 0.0, x)
    elif CODE == 4:
        x = x * tl.sigmoid(x)
    elif CODE == 5:
        x = 2.0 * tl.sigmoid(2.0 * x) - 1.0
    elif CODE == 6:
        # The clamped gate of gpt-oss; NaN stays NaN, as in torch.
        x = tl.where(x > 7.0, 7.0, x)
        x = x * tl.sigmoid(1.702 * x)
    elif CODE == 7:
        x = tl.where(x < 0.0, 0.0, x)
        x = x * x
    elif CODE == 8:
        x = x * tl.sigmoid(1.702 * x)
    return x


@triton.jit
def activation_kernel(
    out, x, factor, x_stride, factor_stride, width, CODE: tl.constexpr, GATED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (tokens, blocks of columns). factor: what an activated gate is multiplied by.

    The gate is rounded before the multiplication, as in the torch reference.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < width
    gate = tl.load(x + row * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    value = apply_activation(gate, CODE)
    if GATED:
        up = tl.load(factor + row * factor_stride + columns, mask=mask, other=0.0).to(tl.float32)
        if CODE == 6:
            up = tl.where(up > 7.0, 7.0, tl.where(up < -7.0, -7.0, up)) + 1.0
        value = value.to(out.dtype.element_ty).to(tl.float32) * up
    tl.store(out + row * width + columns, value.to(out.dtype.element_ty), mask=mask)
