"""LoRA adapters (Hu et al. 2021) on a loaded model: several in one batch, chosen by token.

Architecture files are not involved: the linear layers that an adapter names are wrapped after
loading (``layers.adapted``). If one of our layers combines several of the checkpoint's (a fused
query-key-value projection), A is stacked and B is block-diagonal with its rows in our order, using
the same table as the weights.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atoll.errors import ConfigError, WeightError
from atoll.layers import Linear
from atoll.layers.adapted import AdaptedLinear, AdapterSlots, Delta
from atoll.runner.lora_config import LoraConfig
from atoll.weights.checkpoint import open_checkpoint
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import layout
from atoll.weights.reader import CheckpointReader
from atoll.weights.weight_map import WeightMap

logger = logging.getLogger(__name__)

_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(A|B)(?:\.default)?\.weight")


def attach_adapters(
    model: nn.Module,
    tables: WeightMap | Sequence[WeightMap],
    folder: Path,
    adapters: Mapping[str, Path],
    dtype: torch.dtype,
) -> AdapterSlots:
    """Reads the adapters and wraps the layers they change; mutates the model.

    tables: as for ``load_weights``. folder: the checkpoint that the model was loaded from.

    Raises:
        ConfigError, WeightError: an adapter that does not fit; names the layer and the reason.
    """
    slots, places = AdapterSlots(), AdapterPlaces.of(model, tables, folder)
    for name, path in adapters.items():
        places.install(model, slots, slots.add(name), places.read(path, dtype))
        logger.info("adapter %r from %s", name, path)
    return slots


Deltas = Mapping[str, Delta]


@dataclass(frozen=True)
class AdapterPlaces:
    """Where adapters can be added to a model. layers: the linear layers of the model by name.
    groups: where their weights are in the checkpoint. names: of the checkpoint's layers."""

    layers: Mapping[str, Linear]
    groups: Mapping[str, LayerTensors]
    names: frozenset[str]
    prefixes: Sequence[str]
    prefix: str

    @classmethod
    def of(
        cls, model: nn.Module, tables: WeightMap | Sequence[WeightMap], folder: Path
    ) -> AdapterPlaces:
        """Of a model, some of whose layers may have adapters already; see ``attach_adapters``."""
        reader = open_checkpoint(folder)
        table, prefix = layout(reader, tables)
        every = (
            (n, m.base if isinstance(m, AdaptedLinear) else m) for n, m in model.named_modules()
        )
        layers = {
            n: m for n, m in every if isinstance(m, Linear) and m.is_adaptable and table.find(n)
        }
        groups = {
            n: LayerTensors(reader, prefix, source, model.config, n)
            for n in layers
            if (source := table.find(n)) is not None
        }
        names = frozenset(full for group in groups.values() for full in group.full_names())
        return cls(layers, groups, names, table.prefixes, prefix)

    def read(self, path: Path, dtype: torch.dtype) -> Deltas:
        """What an adapter adds to each layer that it changes.

        Raises:
            ConfigError, WeightError: it does not fit; names the layer and the reason.
        """
        adapter = _Adapter(
            path, lambda full: _as_in_file(full, self.names, self.prefixes, self.prefix), self.names
        )
        found = {}
        for target, layer in self.layers.items():
            delta = adapter.delta(self.groups[target], layer)
            if delta is not None:
                found[target] = Delta(
                    delta.a.to(layer.device, dtype), delta.b.to(layer.device, dtype)
                )
        adapter.check_all_used()
        return found

    def install(self, model: nn.Module, slots: AdapterSlots, key: str, deltas: Deltas) -> None:
        """Adds an adapter to the layers; not during a forward pass."""
        for target, delta in deltas.items():
            module = model.get_submodule(target)
            if not isinstance(module, AdaptedLinear):
                module = _wrap(model, target, self.layers[target], slots)
            module.deltas[key] = delta


def release(model: nn.Module, key: str) -> None:
    """Frees what an adapter adds; not during a forward pass."""
    for module in model.modules():
        if isinstance(module, AdaptedLinear):
            module.deltas.pop(key, None)


def _as_in_file(name: str, known: frozenset[str], prefixes: Sequence[str], prefix: str) -> str:
    """A layer's name with the checkpoint's prefix.

    Adapters use the names of transformers' models; BLOOM and OPT files on the hub shorter ones.
    """
    if name in known:
        return name
    others = (prefix + name[len(p) :] for p in prefixes if name.startswith(p))
    return next((other for other in others if other in known), name)


def _wrap(model: nn.Module, target: str, layer: Linear, slots: AdapterSlots) -> AdaptedLinear:
    parent, _, name = target.rpartition(".")
    wrapped = AdaptedLinear(layer, slots)
    setattr(model.get_submodule(parent), name, wrapped)
    return wrapped


class _Adapter:
    """One PEFT folder: its pairs of matrices by the checkpoint's layer name.

    rename: from the names of transformers' model to the checkpoint's. layers: the checkpoint's
    layers that can be adapted.
    """

    def __init__(self, folder: Path, rename: Callable[[str], str], layers: Iterable[str]) -> None:
        self.folder = folder
        self._config = LoraConfig.read(folder)
        reader = CheckpointReader(folder, _ADAPTER_FILES)
        self._pairs: dict[str, dict[str, Tensor]] = {}
        for key in reader.names():
            match = _KEY.fullmatch(key)
            if match is None:
                raise ConfigError(f"{folder}: tensor {key!r} is not one of a LoRA layer")
            self._pairs.setdefault(rename(match[1]), {})[match[2]] = self._matrix(reader, key)
        for name, pair in self._pairs.items():
            self._check_pair(name, pair)
        missing = sorted(self._config.targeted(layers) - set(self._pairs))
        if missing:
            raise WeightError(
                f"{folder}: {missing[0]}.lora_A.weight and lora_B.weight are missing; "
                "adapter_config.json has that layer among its target_modules"
            )
        self._unused = set(self._pairs)

    def _matrix(self, reader: CheckpointReader, key: str) -> Tensor:
        if len(reader.shape(key)) != 2:
            raise WeightError(f"{self.folder}: {key} has shape {reader.shape(key)}, no matrix's")
        matrix = reader.tensor(key)
        if not matrix.is_floating_point():
            raise WeightError(f"{self.folder}: {key} is {matrix.dtype}; expected floating point")
        return matrix.float()

    def _check_pair(self, name: str, pair: Mapping[str, Tensor]) -> None:
        lost = {"A", "B"} - set(pair)
        if lost:
            raise WeightError(f"{self.folder}: {name}.lora_{lost.pop()}.weight is missing")
        ranks, rank = (len(pair["A"]), pair["B"].shape[1]), self._config.rank_of(name)
        if ranks != (rank, rank):
            raise WeightError(
                f"{self.folder}: {name}.lora_A.weight and lora_B.weight have the ranks {ranks}; "
                f"by r or rank_pattern of adapter_config.json it is {rank}"
            )

    def delta(self, group: LayerTensors, layer: Linear) -> Delta | None:
        """What it adds to one of our layers; None if it does not change the layer.

        group: where the layer's weight is in the checkpoint.
        """
        names = group.full_names()
        present = [name for name in names if name in self._pairs]
        if not present:
            return None
        for name in present:
            if self._pairs[name]["A"].shape[1] != layer.inputs.total:
                raise WeightError(
                    f"{self.folder}: {name}.lora_A.weight takes "
                    f"{self._pairs[name]['A'].shape[1]} features; the model's layer takes "
                    f"{layer.inputs.total}"
                )
        a = torch.cat([self._pairs[name]["A"] for name in present])
        self._unused -= set(present)
        tensors, start = {}, 0
        is_turned = group.is_turned()
        for name in names:
            b = torch.zeros(_num_outputs(group.reader, name, is_turned), len(a))
            if name in self._pairs:
                own = self._pairs[name]["B"]
                if len(own) != len(b):
                    raise WeightError(
                        f"{self.folder}: {name}.lora_B.weight gives {len(own)} features; the "
                        f"model's layer gives {len(b)}"
                    )
                b[:, start : start + own.shape[1]] = own * self._config.scale_of(name)
                start += own.shape[1]
            tensors[f"{name}.weight"] = b.t() if is_turned else b
        stand_in: Any = _OverlayReader(self.folder, tensors)
        placed = replace(group, reader=stand_in, source=group.chosen_source())
        b = placed.get("weight", (layer.outputs, len(a)), layer.rows)
        return Delta(layer.inputs.columns(a), b)

    def check_all_used(self) -> None:
        """Raises WeightError: the adapter changes layers that the model does not have."""
        if self._unused:
            raise WeightError(
                f"{self.folder}: these layers cannot be adapted: {sorted(self._unused)[:4]}"
            )


@dataclass(frozen=True)
class _OverlayReader:
    """B matrices under the names of the weights they change, as ``LayerTensors`` reads them."""

    folder: Path
    tensors: Mapping[str, Tensor]
    lost: Mapping[str, str] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def tensor(self, name: str, index: int | None = None) -> Tensor:
        """See ``CheckpointReader``."""
        return self.tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """See ``CheckpointReader``."""
        return tuple(self.tensors[name].shape)


def _num_outputs(reader: CheckpointReader, name: str, is_turned: bool) -> int:
    """Output features of a layer in the checkpoint, quantized or not."""
    if f"{name}.scales" in reader:
        return reader.shape(f"{name}.scales")[1]
    return reader.shape(f"{name}.weight")[1 if is_turned else 0]
