"""LayerNorm and RMSNorm modules; the residual addition is part of the kernel."""

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions


class LayerNorm(nn.Module):
    """LayerNorm; ``affine`` and ``bias`` say what the checkpoint has (large Galactica nothing)."""

    def __init__(
        self, hidden_size: int, eps: float, bias: bool = True, affine: bool = True
    ) -> None:
        super().__init__()
        self.hidden_size, self.eps = hidden_size, eps
        self.weight = _parameter(hidden_size) if affine else None
        self.bias = _parameter(hidden_size) if affine and bias else None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The normalised rows of ``x + residual``, (tokens, hidden_size)."""
        return kernels.layer_norm(x, self.weight, self.bias, self.eps, residual)[0]

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """The normalised rows, and the sum ``x + residual`` that the next block adds to."""
        return kernels.layer_norm(x, self.weight, self.bias, self.eps, residual)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads what the config promises; errors as in ``LayerTensors.get`` and ``bias``."""
        if self.weight is None:
            group.refuse("weight")
        else:
            self.weight = _read(group, "weight", self.hidden_size, options)
        bias = group.bias(self.hidden_size, self.bias is not None)
        self.bias = None if bias is None else _kept(bias, options)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Norms are never tied."""
        raise AssertionError("a norm cannot be tied")


class RMSNorm(nn.Module):
    """RMSNorm (Zhang & Sennrich 2019): a scale, no bias."""

    def __init__(self, hidden_size: int, eps: float, *, is_zero_centred: bool = False) -> None:
        """is_zero_centred: the file has the scale less one (Gemma)."""
        super().__init__()
        self.hidden_size, self.eps, self.is_zero_centred = hidden_size, eps, is_zero_centred
        self.weight = _parameter(hidden_size)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The normalised rows of ``x + residual``, (tokens, hidden_size)."""
        return kernels.rms_norm(x, self.weight, self.eps, residual)[0]

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """The normalised rows, and the sum ``x + residual`` that the next block adds to."""
        return kernels.rms_norm(x, self.weight, self.eps, residual)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Reads the scale; see ``LayerTensors.get`` and ``LayerTensors.bias`` for the errors.

        A zero-centred one is kept in float32: the sum with one has too many bits for bfloat16.
        """
        if self.is_zero_centred:
            scale = 1.0 + group.get("weight", (self.hidden_size,)).to(options.device).float()
            self.weight = nn.Parameter(scale, requires_grad=False)
        else:
            self.weight = _read(group, "weight", self.hidden_size, options)
        group.bias(self.hidden_size, is_expected=False)

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None:
        """Norms are never tied."""
        raise AssertionError("a norm cannot be tied")


class UnitNorm(nn.Module):
    """RMSNorm without a scale: nothing of it is in a checkpoint."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        # Made with the model, before its device is known.
        self.ones = torch.ones(hidden_size, device="cpu")

    def forward(self, x: Tensor) -> Tensor:
        """x: (rows, hidden_size) -> the same shape."""
        self.ones = self.ones.to(x.device)
        return kernels.rms_norm(x, self.ones, self.eps)[0]


class NoNorm(nn.Module):
    """In place of a norm that the architecture leaves out."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``x + residual``, (tokens, hidden_size)."""
        return x if residual is None else x + residual

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """The sum ``x + residual``, which is also what the next block adds to."""
        out = self(x, residual)
        return out, out


Norm = LayerNorm | RMSNorm | NoNorm


def _parameter(size: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(size), requires_grad=False)


def _read(group: LayerTensors, suffix: str, size: int, options: LoadOptions) -> nn.Parameter:
    return _kept(group.get(suffix, (size,)), options)


def _kept(tensor: Tensor, options: LoadOptions) -> nn.Parameter:
    return nn.Parameter(tensor.to(options.device, options.dtype), requires_grad=False)
