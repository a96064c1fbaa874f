"""Fills a model that was built on the meta device from a checkpoint, module by module."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from atoll.errors import WeightError
from atoll.weights.checkpoint import open_checkpoint
from atoll.weights.gguf.reader import GgufReader
from atoll.weights.layer_tensors import LayerTensors, Mismatch
from atoll.weights.mapped import give_back, is_large, is_mapped, moved_to_file, never_change
from atoll.weights.parts import ONE_RANK, Shard
from atoll.weights.quantization import Quantization
from atoll.weights.reader import CheckpointReader
from atoll.weights.weight_map import (
    ALIASES,
    OTHER_PARTS,
    TEXT_PREFIXES,
    WeightMap,
    full_name,
)

logger = logging.getLogger(__name__)

# Of a stored weight; without them it would be another one.
_FACTORS = ("weight_scale", "weight_scale_inv", "weight_g", "weight_v")


@dataclass(frozen=True)
class LoadOptions:
    """How weights are held: the activations' dtype, the device, and the linear layers' scheme.

    expected_method: the quantisation that the checkpoint must have (``--quantize gptq``). shard:
    the rank whose part of the model is loaded; by default there is one. keeps_blocks: whether what
    a GGUF file has in 4 bits stays so, and what it has in 8 if kernels have it (``keeps_bytes``).
    """

    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")
    scheme: str = "dense"
    group_size: int = 32
    quantization: Quantization | None = None
    expected_method: str | None = None
    shard: Shard = ONE_RANK
    keeps_blocks: bool = True

    @property
    def keeps_bytes(self) -> bool:
        """Whether what a GGUF file has in 8 bits stays so: on a CPU, unless other bits are asked
        for."""
        return self.keeps_blocks and self.scheme == "dense" and self.device.type == "cpu"


@runtime_checkable
class Loadable(Protocol):
    """A module that owns tensors: Linear, Embedding, a norm."""

    def load(self, group: LayerTensors, options: LoadOptions) -> None: ...

    def load_tied(self, source: nn.Module, group: LayerTensors, options: LoadOptions) -> None: ...


def load_weights(
    model: nn.Module, tables: WeightMap | Sequence[WeightMap], folder: Path, options: LoadOptions
) -> None:
    """Fills every loadable module of ``model``; ``model.config`` is handed to row orders.

    Of several tables (layouts that share no names), the one whose anchor is in the file is used.

    Raises:
        WeightError: a tensor is missing, misshapen, or belongs to a layer the model lacks.
    """
    reader = open_checkpoint(folder)
    table, prefix = layout(reader, tables)
    q = options.quantization
    # A GGUF file's config follows from its tensors, whose names are others.
    if q is not None and not reader.must_be_read and not _has_ending(reader, q.suffix):
        raise Mismatch(f"{folder}: {q.source} says {q.method}, and no tensor is a {q.suffix[1:]}")
    keeps_file = options.device.type == "cpu" and never_change(reader.files)
    modules = {n: m for n, m in model.named_modules() if isinstance(m, Loadable)}
    for name, module in modules.items():
        source = table.find(name)
        if source is None:
            raise Mismatch(f"{folder}: this layout has no {name}, which config.json asks for")
        divisors = table.find_input_scales(name)
        group = LayerTensors(reader, prefix, source, model.config, name, divisors)
        kinds = ("weight", "qweight", "qzeros", "scales")
        present = any(group.has_part(part, kind) for part in group.parts() for kind in kinds)
        if not present and name in table.tied:
            _require_tying(model.config, folder, name, group)
            source_module: Any = modules[table.tied[name]]
            module.load_tied(source_module, group, options)
        else:
            module.load(group, options)
            _copy_from_file(module, keeps_file)
    if keeps_file:
        give_back(reader.files)
    _report_left_over(reader, table, prefix, model.config)
    if isinstance(reader, GgufReader):
        logger.info("%s: %s", folder, reader.summary())
    if options.scheme == "int4":
        _report_eight_bits(model)


def _has_ending(reader: CheckpointReader, ending: str) -> bool:
    return any(name.endswith(ending) for name in reader.names())


def layout(
    reader: CheckpointReader, tables: WeightMap | Sequence[WeightMap]
) -> tuple[WeightMap, str]:
    """The table of this checkpoint, and the prefix of its names.

    Raises:
        WeightError: the anchor is under none of the prefixes.
    """
    tables = (tables,) if isinstance(tables, WeightMap) else tables
    for table in tables:
        prefix = table.prefix(reader)
        if prefix is not None:
            return table, prefix
    tried = [name for table in tables for name in table.anchors()]
    hint = ""
    if any(".lora_A." in name for name in reader.names()):
        hint = "; it is an adapter: serve the model it was made for, with lora_adapters"
    raise WeightError(f"{reader.folder}: none of {tried} is in the checkpoint{hint}")


def _copy_from_file(module: Any, keeps_file: bool) -> None:
    """Copies what is still a view of the file: one small norm would keep all of it mapped."""
    is_table = getattr(module, "is_table", False)
    for parameter in module.parameters(recurse=False):
        if parameter.is_meta or (is_table and keeps_file and _stays(parameter)):
            continue
        read = parameter.data
        kept = moved_to_file(read) if is_table else read
        parameter.data = read.clone() if kept is read and is_mapped(read) else kept


def _stays(parameter: nn.Parameter) -> bool:
    return is_mapped(parameter.data) and is_large(parameter.data)


def _require_tying(config: Any, folder: Path, name: str, group: LayerTensors) -> None:
    if not getattr(config, "tie_word_embeddings", True):
        wanted = ", ".join(f"{part}.weight" for part in group.full_names())
        raise Mismatch(
            f"{folder}: {wanted} is missing and config.json says tie_word_embeddings=false"
        )


def _report_left_over(reader: CheckpointReader, table: WeightMap, prefix: str, config: Any) -> None:
    """Fails on tensors of layers that the model lacks; logs tensors of other heads.

    A sixth layer in the file of a model configured with five means that one of them is wrong. What
    lies beside a language model has to be a known part for images, sound or another use.
    """
    unused = tuple(reader.stem(f"{prefix}{name}") for name in table.unused(config))
    left = [name for name in reader.names() if name not in reader.read]
    left = [name for name in left if not name.startswith(unused)]
    if reader.must_be_read and config is not None and left:
        raise Mismatch(f"{reader.folder}: tensors left over, config.json differs: {left[:4]}")
    extra = _extra_layers(left, table, prefix, getattr(config, "num_layers", 0))
    if extra:
        logger.info("%s: layers not used: %s", reader.folder, extra)
        left = [name for name in left if not name.startswith(tuple(extra))]
    patterns = [re.compile(p) for p in _layer_patterns(table, prefix)]
    surplus = [name for name in left if any(p.fullmatch(name) for p in patterns)]
    ends = tuple(f".{alias}" for names in (*ALIASES.values(), _FACTORS) for alias in names)
    starts, buffers = tuple(prefix + start for start in table.complete), tuple(table.buffers)
    parameters = [n for n in left if n.endswith(ends) and not n.endswith(buffers)]
    surplus = surplus or [n for n in parameters if n.startswith(starts)]
    if prefix in TEXT_PREFIXES:
        others = [n for n in parameters if not n.removeprefix("model.").startswith(OTHER_PARTS)]
        surplus = surplus or others
    if surplus:
        raise Mismatch(f"{reader.folder}: tensors left over, config.json differs: {surplus[:4]}")
    if left:
        logger.info("%s: %d tensors are not used: %s", reader.folder, len(left), left[:6])


def _report_eight_bits(model: nn.Module) -> None:
    """Says how many layers could not be packed in 4 bits; the head is in 8 by design."""
    packed = {n: getattr(m, "packed", None) for n, m in model.named_modules() if n != "lm_head"}
    schemes = {name: getattr(found, "scheme", "") for name, found in packed.items()}
    names = [name for name, scheme in schemes.items() if scheme == "int8"]
    if names:
        total = sum(scheme in ("int4", "int8") for scheme in schemes.values())
        logger.warning(
            "int4: %d of %d layers are held in 8 bits, as no kernel here takes them in 4 (inputs "
            "have to be multiples of 32): %s", len(names), total, names[:4],
        )  # fmt: skip


def _extra_layers(
    names: Sequence[str], table: WeightMap, prefix: str, num_layers: int
) -> list[str]:
    """How the names of layers begin that are there for another use, from the model's last on."""
    if not table.extra_layers:
        return []
    start, mark = (prefix + table.extra_layers).split("{i}")
    found = []
    for layer in range(num_layers, num_layers + len(names)):
        if not any(name.startswith(f"{start}{layer}{mark}.") for name in names):
            break
        found.append(f"{start}{layer}.")
    return found


def _layer_patterns(table: WeightMap, prefix: str) -> list[str]:
    patterns = []
    for source in table.modules.values():
        for part in _flat(source):
            if "{i}" in part and not part.endswith("]"):
                pattern = (
                    re.escape(full_name(prefix, part))
                    .replace(r"\{i\}", r"\d+")
                    .replace(r"\{e\}", r"\d+")
                )
                patterns.append(pattern + r"\.(weight|qweight)")
    return patterns


def _flat(source: Any) -> list[str]:
    if isinstance(source, str):
        return [source]
    inner = getattr(source, "sources", None) or getattr(source, "source", source)
    if isinstance(inner, str):
        return [inner]
    if isinstance(inner, tuple):
        return [part for item in inner for part in _flat(item)]
    return _flat(inner)
