"""Which words of a quantised layer are unpacked: those that the codes of a rank's part are in.

Codes of several features share a word of 32 bits, or cross its end; of any width, those of 32
features are whole words. A window is what is held, rounded up to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.parts import Part, Range

_WHOLE_WORDS = 32


class Shape(NamedTuple):
    """A linear layer's features, or a rank's part of them.

    rows: outputs of each part that the whole layer may be stored in.
    """

    outputs: Part
    inputs: Part
    rows: Sequence[int] | None = None


class Window(NamedTuple):
    """What is unpacked of one part of a fused projection, or of the only one.

    shape: (out_features, in_features) of the part as it is stored. outputs, inputs: of these.
    """

    part: str
    shape: tuple[int, int]
    outputs: slice
    inputs: slice

    @property
    def num_outputs(self) -> int:
        """Outputs that are unpacked."""
        return int(self.outputs.stop - self.outputs.start)


class Windows(NamedTuple):
    """The windows of a layer's parts, and what of them is held.

    rows: the held outputs in our order, counted over all windows, -1 for zeros; None: all, as they
    are stored. inputs: the held ones, counted from the windows' first; None: all.
    """

    parts: Sequence[Window]
    rows: Tensor | None
    inputs: Part | None


def windows(group: LayerTensors, shape: Shape) -> Windows:
    """What to unpack of a layer; everything, unless ``shape`` is a rank's part."""
    held, order = shape.inputs.span, group.rows()
    inputs = _rounded(held.start, held.stop, shape.inputs.total)
    rest = None
    if not shape.inputs.is_whole:
        own = Range(held.start - inputs.start, held.stop - inputs.start, shape.inputs.num_filled)
        rest = Part(inputs.stop - inputs.start, (own,))
    names = group.parts()
    shares = group.shares(shape.outputs.total, shape.rows)
    if shape.outputs.is_whole:
        outputs, rows = [slice(0, share) for share in shares], order
    else:
        outputs, rows = _around(shape.outputs.rows(order), shares)
    return Windows(
        [
            Window(name, (share, shape.inputs.total), some, inputs)
            for name, share, some in zip(names, shares, outputs, strict=True)
        ],
        rows,
        rest,
    )


def words(features: slice, bits: int) -> slice:
    """The words that the codes of a window's features are in."""
    return slice(features.start * bits // 32, -(-features.stop * bits // 32))


def _around(rows: Tensor, shares: Sequence[int]) -> tuple[list[slice], Tensor]:
    """Of each part the outputs around ``rows``, and where in them these are.

    rows: counted over all parts, as these stand one behind the other; -1 stays.
    """
    found, places = list[slice](), torch.full_like(rows, -1)
    first = count = 0
    for share in shares:
        is_own = (rows >= first) & (rows < first + share)
        own = rows[is_own] - first
        ends = (int(own.min()), int(own.max()) + 1) if len(own) else (0, 0)
        found.append(_rounded(*ends, share))
        places[is_own] = own - found[-1].start + count
        first, count = first + share, count + found[-1].stop - found[-1].start
    return found, places


def _rounded(start: int, stop: int, total: int) -> slice:
    """Around features, as many as are in no word with others."""
    last = -(-stop // _WHOLE_WORDS) * _WHOLE_WORDS
    return slice(start // _WHOLE_WORDS * _WHOLE_WORDS, min(last, total))
