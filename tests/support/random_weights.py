"""Models of any size with random weights, made on their device, without a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from atoll.models.registry import architecture, build
from atoll.weights.load import Loadable, LoadOptions
from atoll.weights.parts import Part


class _Noise:
    """Stands in for the tensors that a checkpoint has for a module."""

    def __init__(self, target: str, options: LoadOptions) -> None:
        self.target, self._options = target, options

    input_scales_source = None
    reader = None

    def get(
        self, suffix: str, shape: Sequence[int | Part], rows: Sequence[int] | None = None
    ) -> Tensor:
        """Ones and zeros for a norm, small numbers for a matrix, in the options' dtype."""
        given: dict[str, Any] = {"device": self._options.device, "dtype": self._options.dtype}
        held = [len(Part.of(features)) for features in shape]
        if len(shape) == 1:
            return torch.full(held, float(suffix == "weight"), **given)
        return torch.randn(held, **given) * 0.02

    def bias(
        self,
        size: int | Part,
        is_expected: bool,
        rows: Sequence[int] | None = None,
        zero_parts: Sequence[int] = (),
    ) -> Tensor | None:
        """Zeros, where the module has one."""
        return self.get("bias", (size,)) if is_expected else None

    def refuse(self, suffix: str) -> None:
        """There is nothing that the module does not ask for."""

    def parts(self) -> tuple[str, ...]:
        """Of none it has to be asked whether it is quantised."""
        return ()


def random_model(
    raw: Mapping[str, Any], table: Mapping[str, str], options: LoadOptions
) -> nn.Module:
    """The model of a config.json; table: ``families.DECODERS`` or ``ENCODERS``."""
    model = build(architecture(raw, table), raw, options.shard)
    for name, module in model.named_modules():
        if isinstance(module, Loadable):
            noise: Any = _Noise(name, options)
            module.load(noise, options)
    return model.eval()
