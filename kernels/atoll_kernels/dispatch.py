"""The choice of an implementation of an op.

The implementations of an op are tried in order of preference. One declines by returning ``None``;
the last one, the torch reference, never does. The user's policy is set once, before a model is
loaded (one process serves one model), and only read afterwards.
"""

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from atoll_kernels.backends import KernelPolicy

Op = Callable[..., Any]


_policy = KernelPolicy()


def configure(policy: KernelPolicy) -> None:
    """Sets the process's policy. Call it before a model is built."""
    global _policy
    _policy = policy
    candidates.cache_clear()


def policy() -> KernelPolicy:
    """The process's policy."""
    return _policy


@cache
def candidates(op: str, device_type: str) -> tuple[Op, ...]:
    """Implementations of ``op`` for tensors on ``device_type``, best first."""
    found: list[Op] = []
    if not _policy.disable_custom_kernels:
        family = _policy.family or ("cpu" if device_type == "cpu" else "gpu")
        found += _optional(f"atoll_kernels.{family}", op)
    found += _optional("atoll_kernels.reference", op)
    return tuple(found)


def run(op: str, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Calls the implementations until one does not decline.

    Raises:
        TypeError: all declined; the message has the shape, the dtype and what was tried.
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
