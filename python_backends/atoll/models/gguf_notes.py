"""What a user of a GGUF file should know: how much of it stays as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.config import Settings
from atoll.layers.linear import Linear
from atoll.models.load_options import keeps_blocks, keeps_bytes
from atoll.models.registry import Plan
from atoll.weights.checkpoint import gguf_reader
from atoll.weights.gguf.codes import has_codes
from atoll.weights.gguf.eight_bits import has_bytes
from atoll.weights.gguf.index import is_gguf
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import layout


def gguf_notes(
    folder: Path, raw: Mapping[str, Any], plan: Plan, settings: Settings
) -> tuple[str, ...]:
    """One sentence, of a checkpoint whose tensors are in a GGUF file.

    raw: its config.json.

    Raises:
        WeightError: the file was changed, or has no such model in it.
    """
    if not is_gguf(folder):
        return ()
    reader = gguf_reader(folder)
    table, prefix = layout(reader, plan.module.WEIGHTS)
    in_four, in_eight = keeps_blocks(settings, raw), keeps_bytes(settings, raw)
    for name, module in plan.model.named_modules():
        source = table.find(name)
        if not in_four or source is None or not isinstance(module, Linear):
            continue
        group = LayerTensors(reader, prefix, source, plan.model.config, name)
        bits = 4 if has_codes(group) else 8 if in_eight and has_bytes(group) else 0
        for part in group.parts() if module.quantizable and bits else ():
            names = reader.gguf_names(group.name(part, "weight"))
            reader.kept.update(dict.fromkeys(names, bits))
    return (reader.summary(),)
