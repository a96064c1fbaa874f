"""Dense linear layers by oneDNN, over a weight that is reordered once, at load.

oneDNN's blocked layout is faster than ``F.linear`` for any number of rows: 1.5-2x for a single row,
as in decoding, and 1.2-2x for hundreds of rows in float32, since MKL is slow on processors other
than Intel's (docs/benchmarks/kernels.md).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from atoll_kernels.activation import ACTIVATIONS, BY_NAME, Activation
from atoll_kernels.linear import PackedLinear

# oneDNN's post-op and algorithm.
_POST_OPS = {
    Activation.NONE: ("none", ""),
    Activation.GELU: ("gelu", "none"),
    Activation.GELU_TANH: ("gelu", "tanh"),
    Activation.RELU: ("relu", ""),
    Activation.SILU: ("swish", ""),
    Activation.TANH: ("tanh", ""),
}


@dataclass(eq=False)
class OneDnnDense(PackedLinear):
    """tensors: the weight in oneDNN's opaque layout. dtype: of the product."""

    dtype: torch.dtype
    scheme = "dense"

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """See ``atoll_kernels.linear``; the activation is fused, if oneDNN has it."""
        if BY_NAME[activation] not in _POST_OPS:
            # Several operations in torch, which would round after each.
            return ACTIVATIONS[str(activation)](self.forward(x).float()).to(x.dtype)
        post_op, algorithm = _POST_OPS[BY_NAME[activation]]
        rows = x.to(self.dtype).contiguous()
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self.tensors[0], self.bias, post_op, [], algorithm
        )
        return out.to(x.dtype)


def compute_dtype(dtype: torch.dtype) -> torch.dtype | None:
    """The dtype in which oneDNN computes with weights of ``dtype``; None: it cannot.

    Without instructions for it, float16 runs at a tenth of float32's speed, so it is converted to
    float32, without loss.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    if dtype == torch.float16 and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        return torch.float32
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return dtype if dtype in (torch.float32, torch.bfloat16, torch.float16) else None


def pack(weight: Tensor, bias: Tensor | None) -> PackedLinear | None:
    """Reorders (out_features, in_features) floats; None without oneDNN."""
    dtype = compute_dtype(weight.dtype)
    if dtype is None or not weight.numel():
        return None
    out_features, in_features = weight.shape
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype).contiguous())
    # A copy: a view of a memory-mapped file would keep the whole file mapped.
    bias = None if bias is None else bias.to(dtype, copy=True)
    return OneDnnDense(in_features, out_features, (packed,), bias, dtype)
