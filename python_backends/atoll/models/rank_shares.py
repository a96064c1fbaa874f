"""What each of several ranks holds of a generator, by its config: no weight is read.

Bytes are those of a GPU; a CPU's kernels pad their weights, and keep a tied head twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn

from atoll.errors import ConfigError
from atoll.layers.linear import Linear
from atoll.layers.parallel import Shard, sketching
from atoll.models.registry import build_part
from atoll.weights.quantization import Quantization

# Of weights that are quantised at load, scales and zeros included.
_BITS = {"int8": 8.0, "int4": 5.0}
# Of a scale and a zero of a checkpoint's group.
_GROUP_BITS = 32


@dataclass(frozen=True)
class RankShare:
    """What one rank of ``num_shard`` holds: all weights, the cache of one token of a text, and the
    state of a text in recurrent layers."""

    num_shard: int
    weight_bytes: int
    cache_bytes_per_token: int
    state_bytes: int = 0


@dataclass(frozen=True)
class Storage:
    """How weights are held; see ``weights.load.LoadOptions``. state_dtype: as the setting."""

    dtype: torch.dtype = torch.float16
    scheme: str = "dense"
    quantization: Quantization | None = None
    state_dtype: torch.dtype = torch.float32


def rank_shares(
    module: ModuleType, config: Any, storage: Storage, sizes: Sequence[int]
) -> list[RankShare]:
    """Of each of ``sizes`` over which the model can be divided, what a rank holds.

    module: an architecture's file. config: its ``Config``.
    """
    found = (_share(module, config, storage, size) for size in sizes)
    return [share for share in found if share is not None]


def _share(module: ModuleType, config: Any, storage: Storage, size: int) -> RankShare | None:
    """None: the model cannot be divided so."""
    try:
        with sketching():
            model: Any = build_part(module, config, Shard(size=size))
    except ConfigError:
        return None
    cache = sum(spec.bytes_per_token(storage.dtype) for spec in model.cache_specs())
    state = sum(
        spec.bytes_per_sequence(storage.dtype, storage.state_dtype) for spec in model.state_specs()
    )
    return RankShare(size, _weight_bytes(model, storage), cache, state)


def _weight_bytes(model: nn.Module, storage: Storage) -> int:
    total = 0.0
    for name, layer in model.named_modules():
        for kind, parameter in layer.named_parameters(recurse=False):
            bits = storage.dtype.itemsize * 8.0
            if isinstance(layer, Linear) and kind == "weight":
                bits = _bits(name, layer, model, storage)
            total += parameter.numel() * _num_alike(name, model) * bits / 8
    return round(total)


def _num_alike(name: str, model: nn.Module) -> int:
    """How many layers one of a sketched model stands for."""
    mixture, found, _ = name.partition(".experts.")
    experts: Any = model.get_submodule(mixture) if found else None
    return experts.num_experts if found else 1


def _bits(name: str, layer: Linear, model: Any, storage: Storage) -> float:
    """Of one weight of a linear layer."""
    plain, q = storage.dtype.itemsize * 8.0, storage.quantization
    scheme = storage.scheme if layer.quantizable else "dense"
    if name == "lm_head":
        if scheme == "dense":
            return 0.0 if model.config.tie_word_embeddings else plain
        return _BITS["int8"]
    if q is not None and q.method == "mxfp4":
        return 4 + 8 / q.group_size if q.covers(name) else _BITS.get(scheme, plain)
    if q is not None and q.bits == 4 and layer.quantizable and scheme != "int8":
        # Kernels want groups of one size, and a part of the inputs has some of every group.
        is_scattered = bool(q.act_order) and not layer.inputs.is_whole
        size = q.group_size if q.group_size > 0 else layer.inputs.total
        return plain if is_scattered else 4 + _GROUP_BITS / size
    return _BITS.get(scheme, plain)
