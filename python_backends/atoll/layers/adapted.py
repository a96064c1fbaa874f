"""LoRA adapters (Hu et al. 2021) beside a linear layer: several in one batch, chosen by token.

``y = base(x) + scale * B(A(x))``, the scale in B. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.errors import ValidationError
from atoll.layers.linear import Linear


@dataclass(frozen=True)
class Delta:
    """What an adapter adds to one of our layers: a (rank, in_features), b (out_features, rank)."""

    a: Tensor
    b: Tensor


_Active = tuple[Delta, Tensor | None]


class AdapterSlots:
    """The adapters of a model, and which tokens of the current batch use which.

    Adapters have numbers, by which steps name them, and keys, by which layers hold what they add. A
    number is never used again, and neither is a key while anything of the adapter is left: one that
    was replaced under its name goes on for the requests that have begun with it.

    keys: by number. rows: by key, the token rows that use the adapter; None for all rows. Set
    before every forward pass.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.keys: list[str] = []
        self.rows: dict[str, Tensor | None] = {}
        self._numbers: dict[str, int] = {}
        for name in names:
            self.add(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Those that requests may ask for."""
        return tuple(self._numbers)

    def add(self, name: str) -> str:
        """A new adapter, in place of one of the same name; returns its key."""
        number = len(self.keys)
        self.keys.append(name if name not in self.keys else f"{name}#{number}")
        # As a whole: other threads read it.
        self._numbers = {**self._numbers, name: number}
        return self.keys[number]

    def remove(self, name: str) -> int:
        """Requests may no longer ask for it; returns its number."""
        number = self._numbers[name]
        self._numbers = {k: v for k, v in self._numbers.items() if k != name}
        return number

    def number(self, name: str | None) -> int:
        """-1: no adapter is asked for.

        Raises:
            ValidationError: there is no such adapter, since it was unloaded after ``check``.
        """
        if name is None:
            return -1
        if name not in self._numbers:
            raise ValidationError(f"adapter {name!r} has just been unloaded")
        return self._numbers[name]

    def check(self, adapter_id: str | None) -> None:
        """Raises ValidationError: no such adapter; names those that are."""
        if adapter_id is not None and adapter_id not in self._numbers:
            known = ", ".join(self.names)
            has = f"known: {known}" if known else "no adapters are loaded"
            raise ValidationError(f"adapter_id is {adapter_id!r}; {has}")

    def assign(
        self, adapters: Sequence[str | None], counts: Sequence[int], device: torch.device
    ) -> None:
        """Says which adapter each sequence of a batch uses; counts: tokens of each sequence."""
        chosen = set(adapters)
        if len(chosen) == 1:
            only = chosen.pop()
            self.rows = {} if only is None else {only: None}
            return
        self.rows = {}
        for name in sorted(chosen - {None}, key=str):
            rows: list[int] = []
            start = 0
            for adapter, count in zip(adapters, counts, strict=True):
                rows += range(start, start + count) if adapter == name else ()
                start += count
            self.rows[str(name)] = torch.tensor(rows, device=device)


class AdaptedLinear(nn.Module):
    """A linear layer and what the adapters add to it.

    Rows without an adapter are computed as if there were none: in the same kernels, bit for bit.
    """

    def __init__(self, base: Linear, slots: AdapterSlots) -> None:
        super().__init__()
        self.base, self._slots = base, slots
        self.deltas: dict[str, Delta] = {}

    @property
    def packed(self) -> kernels.PackedLinear | None:
        """The base layer's."""
        return self.base.packed

    def adapted_rows(self, num_rows: int, device: torch.device) -> Tensor | None:
        """Which of the batch's rows some adapter changes here, (rows,) int64; None: no row."""
        active = [rows for name, rows in self._slots.rows.items() if name in self.deltas]
        if not active:
            return None
        every = [torch.arange(num_rows, device=device) if rows is None else rows for rows in active]
        return torch.cat(every)

    def forward(
        self, x: Tensor, activation: str | None = None, tokens: Tensor | None = None
    ) -> Tensor:
        """x: (rows, in_features) -> (rows, out_features); row r is the batch's token tokens[r]."""
        if activation is None:
            return self._added(self.base(x), x, self._active(tokens))
        return self._mixed(
            x, tokens, lambda rows: self.base(rows, activation),
            lambda y: kernels.activate(y, activation),
        )  # fmt: skip

    def gated(self, x: Tensor, activation: str, tokens: Tensor | None = None) -> Tensor:
        """As ``Linear.gated``."""
        return self._mixed(
            x, tokens, lambda rows: self.base.gated(rows, activation),
            lambda y: kernels.gated_activation(y, activation),
        )  # fmt: skip

    def _mixed(
        self,
        x: Tensor,
        tokens: Tensor | None,
        fused: Callable[[Tensor], Tensor],
        activate: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """``fused`` for rows without adapters; the sum before its activation for the others."""
        active = self._active(tokens)
        if not active:
            return fused(x)
        if active[0][1] is None:
            return activate(self._added(self.base(x), x, active))
        rows = torch.cat([rows for _, rows in active if rows is not None])
        changed = self._added(self.base(x[rows]), x[rows], _in_order(active))
        return fused(x).index_copy(0, rows, activate(changed))

    @staticmethod
    def _added(y: Tensor, x: Tensor, active: Sequence[_Active]) -> Tensor:
        """y: what the base layer makes of x, (rows, out_features)."""
        for delta, rows in active:
            if rows is None:
                y = y + x @ delta.a.t() @ delta.b.t()
            else:
                y = y.index_add(0, rows, x[rows] @ delta.a.t() @ delta.b.t())
        return y

    def _active(self, tokens: Tensor | None) -> list[_Active]:
        """The adapters of this layer that the batch uses, and their rows of x; None: all."""
        found: list[_Active] = []
        for name, rows in self._slots.rows.items():
            if name in self.deltas:
                if rows is not None and tokens is not None:
                    rows = torch.isin(tokens, rows).nonzero().squeeze(1)
                found.append((self.deltas[name], rows))
        return found


def _in_order(active: Sequence[_Active]) -> list[_Active]:
    """The same adapters for rows that were picked one adapter's after the other's."""
    found: list[_Active] = []
    start = 0
    for delta, rows in active:
        assert rows is not None, "all rows use one adapter"
        found.append((delta, torch.arange(start, start + len(rows), device=rows.device)))
        start += len(rows)
    return found
