"""What a user of a GGUF file should know: how much of it stays as it is stored."""

from __future__ import annotations

from pathlib import Path

from atoll.config import Settings
from atoll.layers.linear import Linear
from atoll.models.registry import Plan
from atoll.weights.checkpoint import gguf_reader
from atoll.weights.gguf.codes import has_codes
from atoll.weights.gguf.index import is_gguf
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import layout
from atoll.weights.quantization import scheme_for


def gguf_notes(folder: Path, plan: Plan, settings: Settings) -> tuple[str, ...]:
    """One sentence, of a checkpoint whose tensors are in a GGUF file.

    Raises:
        WeightError: the file was changed, or has no such model in it.
    """
    if not is_gguf(folder):
        return ()
    reader = gguf_reader(folder)
    table, prefix = layout(reader, plan.module.WEIGHTS)
    scheme = scheme_for(settings.quantize) if settings.quantize else settings.dtype
    for name, module in plan.model.named_modules():
        source = table.find(name)
        if scheme == "int8" or source is None or not isinstance(module, Linear):
            continue
        group = LayerTensors(reader, prefix, source, plan.model.config, name)
        if module.quantizable and has_codes(group):
            reader.kept |= {reader.gguf_name(group.name(p, "weight")) for p in group.parts()}
    return (reader.summary(),)
