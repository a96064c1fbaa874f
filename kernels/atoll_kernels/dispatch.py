"""Which implementation of an op runs.

An op's public function asks ``candidates(op, x)`` for its implementations in order of preference;
a candidate declines by returning ``None``, and the torch reference, last, never does. The
process-wide ``policy`` is set once, before a model loads (one process serves one model).
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from atoll_kernels.backends import Wishes

Op = Callable[..., Any]


@dataclass
class Policy:
    """What the user asked for.

    ``disable_custom_kernels`` forces the torch reference everywhere (``--disable-custom-kernels``).
    ``use_flash_attention`` overrides the GPU's default. For tests and measurements, ``family``
    ("cpu", "gpu") forces what is otherwise chosen by the device, and ``attention_backend`` (a name
    of ``backends.BACKENDS``) goes before the others where it can serve a call.
    """

    disable_custom_kernels: bool = False
    use_flash_attention: bool | None = None
    family: str | None = None
    attention_backend: str | None = None

    @property
    def wishes(self) -> Wishes:
        """The part that the choice of a GPU's attention depends on."""
        return Wishes(self.disable_custom_kernels, self.use_flash_attention)


policy = Policy()


def configure(
    *,
    disable_custom_kernels: bool = False,
    use_flash_attention: bool | None = None,
    family: str | None = None,
    attention_backend: str | None = None,
) -> None:
    """Sets the process-wide policy. Call it before a model is built."""
    policy.disable_custom_kernels = disable_custom_kernels
    policy.use_flash_attention = use_flash_attention
    policy.family, policy.attention_backend = family, attention_backend
    candidates.cache_clear()


@cache
def candidates(op: str, device_type: str) -> tuple[Op, ...]:
    """Implementations of ``op`` for tensors on ``device_type``, best first."""
    found: list[Op] = []
    if not policy.disable_custom_kernels:
        family = policy.family or ("cpu" if device_type == "cpu" else "gpu")
        found += _optional(f"atoll_kernels.{family}", op)
    found += _optional("atoll_kernels.reference", op)
    return tuple(found)


def run(op: str, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Calls the first candidate that does not decline.

    Raises:
        TypeError: no candidate accepted; names shapes, dtype and what was tried.
    """
    tried = candidates(op, x.device.type)
    for implementation in tried:
        result = implementation(x, *args, **kwargs)
        if result is not None:
            return result
    names = [f"{f.__module__}.{f.__name__}" for f in tried]
    raise TypeError(
        f"{op}: no implementation for shape {tuple(x.shape)}, dtype {x.dtype} on {x.device}; "
        f"tried {names}"
    )


def _optional(package: str, op: str) -> list[Op]:
    implementation = getattr(importlib.import_module(package), op, None)
    return [] if implementation is None else [implementation]
