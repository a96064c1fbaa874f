"""Time steps, decays and strengths of recurrent layers, in float32."""

import triton
import triton.language as tl


@triton.jit
def gates_kernel(
    out, opened, x, bias, scale, opening, x_stride, opening_stride, width, low, high,
    BIAS: tl.constexpr, SCALE: tl.constexpr, OPEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (tokens, blocks of columns): ``clamp(scale * softplus(x + bias))``, and, with OPEN,
    ``sigmoid(opening)``. The logarithm in softplus is 2 artanh(t / (2 + t)), t = e^-|x| <= 1, whose
    series keeps the digits of small values.
    """
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < width
    value = tl.load(x + row * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + columns, mask=mask, other=0.0)
    t = tl.exp(-tl.abs(value))
    s = t / (t + 2.0)
    q = s * s
    series = tl.full((BLOCK,), 2.0 / 15.0, tl.float32)
    for i in tl.static_range(7):
        series = series * q + 2.0 / (13 - 2 * i)
    # NaN stays NaN.
    value = tl.where(value < 0.0, 0.0, value) + s * series
    if SCALE:
        value *= tl.load(scale + columns, mask=mask, other=0.0)
    value = tl.where(value < low, low, tl.where(value > high, high, value))
    tl.store(out + row * width + columns, value, mask=mask)
    if OPEN:
        gate = tl.load(opening + row * opening_stride + columns, mask=mask, other=0.0)
        tl.store(opened + row * width + columns, tl.sigmoid(gate.to(tl.float32)), mask=mask)
