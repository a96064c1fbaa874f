"""gpt-oss' experts: llama.cpp divides what the hub has in one stack, and orders nibbles otherwise.

The hub has ``gate_up_proj``, whose rows alternate, and ``down_proj``, as MXFP4 ``_blocks`` and
``_scales`` with two neighbouring codes in a byte; or, in other types, as stacks of (inputs,
outputs). A GGUF file has a stack each of gate, up and down; of a block of 32, byte i has codes i
and i + 16.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atoll.weights.gguf.reader import GgufReader

_EXPERTS = re.compile(
    r"(?:model\.)?layers\.(\d+)\.mlp\.experts\.(gate_up|down)_proj(_blocks|_scales|_bias)?"
)
_BLOCK, _BYTES = 32, 17


class _Stack(NamedTuple):
    """Names in the file of a stack's parts, and which of the hub's tensors of it is meant."""

    parts: tuple[str, ...]
    suffix: str


class GptOssReader(GgufReader):
    """See ``GgufReader``."""

    def __contains__(self, name: str) -> bool:
        stack = self._stack(name)
        if stack is None:
            return super().__contains__(name)
        if any(part not in self.index.tensors for part in stack.parts):
            return False
        is_packed = all(self.index.tensors[part].kind == "MXFP4" for part in stack.parts)
        return stack.suffix == "_bias" or is_packed == (stack.suffix in ("_blocks", "_scales"))

    def shape(self, name: str) -> tuple[int, ...]:
        """As on the hub."""
        stack = self._stack(name)
        if stack is None:
            return super().shape(name)
        count, rows, *inputs = self.index.tensors[stack.parts[0]].shape
        rows *= len(stack.parts)
        if stack.suffix == "_bias":
            return (count, rows)
        if not stack.suffix:
            return (count, *inputs, rows)
        groups = inputs[0] // _BLOCK
        return (count, rows, groups, *([_BLOCK // 2] if stack.suffix == "_blocks" else []))

    def tensor(self, name: str, index: int | None = None) -> Tensor:
        """As on the hub; of a stack one slice, or all."""
        stack = self._stack(name)
        if stack is None:
            return super().tensor(name, index)
        if index is None:
            return torch.stack([self.tensor(name, i) for i in range(self.shape(name)[0])])
        parts = [self._slice(part, stack.suffix, index) for part in stack.parts]
        self.read.update(stack.parts)
        # Rows of gate and up alternate.
        found = torch.stack(parts, 1).flatten(0, 1)
        return found if stack.suffix else found.t()

    def kind(self, name: str) -> str:
        """GGUF's name of a tensor's type; "" of a stack, whose parts may have several."""
        return super().kind(name) if self._stack(name) is None else ""

    def _slice(self, part: str, suffix: str, index: int) -> Tensor:
        stored = self.index.tensors[part]
        if suffix == "_bias":
            # One row of the matrix of all experts' biases.
            as_stack = stored._replace(shape=(*stored.shape, 1))
            return self.dequantized_rows(as_stack, index).flatten()
        if not suffix:
            return self.dequantized_rows(stored, index)
        blocks = self.rows(stored, index).reshape(stored.shape[1], -1, _BYTES)
        if suffix == "_scales":
            return torch.from_numpy(blocks[..., 0].copy())
        return torch.from_numpy(_neighbours(blocks[..., 1:]))

    def _stack(self, name: str) -> _Stack | None:
        match = _EXPERTS.fullmatch(name)
        if match is None:
            return None
        layer, kind, suffix = match[1], match[2], match[3] or ""
        parts = ("gate", "up") if kind == "gate_up" else ("down",)
        ending = "bias" if suffix == "_bias" else "weight"
        return _Stack(tuple(f"blk.{layer}.ffn_{p}_exps.{ending}" for p in parts), suffix)


def _neighbours(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Bytes with codes i and i + 16 -> bytes with codes 2i and 2i + 1."""
    codes = np.concatenate([packed & 15, packed >> 4], axis=-1)
    found: npt.NDArray[np.uint8] = codes[..., 0::2] | codes[..., 1::2] << 4
    return found
