"""What native linear layers share whose kernels round neither weights nor rows of x."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from atoll_kernels.cpu.native import library
from atoll_kernels.cpu.native.arguments import DTYPES
from atoll_kernels.cpu.native.library import Library
from atoll_kernels.linear import PackedLinear


@dataclass(eq=False)
class NativeExact(PackedLinear, ABC):
    """tensors: blocks of codes for ``2 * width`` outputs each, and their scales. bias: float32."""

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """See ``atoll_kernels.linear``."""
        if x.dtype not in DTYPES:
            return self.forward(x.float(), activation).to(x.dtype)
        return self._run(x if x.stride(1) == 1 else x.contiguous(), activation, is_gated=False)

    def gated(self, x: Tensor, activation: str) -> Tensor:
        """See ``atoll_kernels.gated_linear``; two kernels unless halves are whole blocks."""
        native = loaded()
        is_whole = self.out_features % (4 * native.width) == 0
        if not is_whole or native.has_tiles or x.dtype not in DTYPES or x.stride(1) != 1:
            return super().gated(x, activation)
        return self._run(x, activation, is_gated=True)

    @abstractmethod
    def _run(self, x: Tensor, activation: str | None, is_gated: bool) -> Tensor:
        """x: (rows, in_features) in one of ``DTYPES``, its features adjacent."""


def loaded() -> Library:
    """The native library, which the layers were packed for."""
    found = library()
    assert found is not None, "pack() used it"
    return found
