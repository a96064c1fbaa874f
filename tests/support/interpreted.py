"""What the tests of interpreted kernels share: devices, dtypes, tolerances, float64 references.

On a machine with a GPU the same tests run compiled, on the GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atoll_kernels.attention import AttentionArgs, PagedKV

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if IS_INTERPRETED else "cuda")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Largest error, as a share of the largest value of the float64 result.
TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def prepare_interpreter() -> None:
    """Mends what the interpreter does with bfloat16, and what makes it slow."""
    _repair_bfloat16()
    _remember_dtypes()
    _replace_language_once()


def _remember_dtypes() -> None:
    """The interpreter makes a dictionary of all dtypes whenever it needs one."""
    from triton.runtime import interpreter

    find, known = interpreter._get_np_dtype, dict[str, Any]()

    def remembered(kind: Any) -> Any:
        scalar = kind.scalar
        if scalar.is_ptr():
            return np.dtype(np.uint64)
        if scalar.name not in known:
            known[scalar.name] = find(scalar)
        return known[scalar.name]

    interpreter._get_np_dtype = remembered


def _replace_language_once() -> None:
    """The interpreter replaces the functions of ``triton.language`` anew for each call of a device
    function, which takes longer than most of these calls; here, once per launch and module.
    """
    from triton.runtime import interpreter

    replace_language, replaced = interpreter._patch_lang, set[int]()

    def launch(fn: Any) -> Any:
        replaced.clear()
        return replace_language(fn)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        module = id(self.fn.__globals__)
        if module not in replaced:
            replaced.add(module)
            replace_language(self.fn)
        fn = self.rewrite()
        try:
            return fn(*args, **kwargs)
        except Exception as error:
            raise interpreter.InterpreterError(repr(error)) from error

    interpreter._patch_lang, interpreter.InterpretedFunction.__call__ = launch, call


def _repair_bfloat16() -> None:
    """The interpreter multiplies the bits of bfloat16 operands as integers, and truncates casts.

    Here operands are widened first, and casts round to nearest even, as GPUs do.
    """
    from triton.runtime import interpreter

    tl, builder, handle = interpreter.tl, interpreter.InterpreterBuilder, interpreter.TensorHandle
    convert, create_dot = interpreter._convert_float, builder.create_dot

    def rounded(data: Any, source: Any, target: Any, mode: Any) -> Any:
        if (source, target) == (tl.bfloat16, tl.float32):
            return data.astype(np.uint32) << 16
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(data, source, target, mode)
        bits = np.ascontiguousarray(data).view(np.uint32).astype(np.uint64)
        nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return np.where(np.isnan(data), np.uint16(0x7FC0), nearest)

    def widened(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        wide = operand.data.astype(np.uint32) << 16
        return handle(wide.view(np.float32), tl.float32)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(self, widened(a), widened(b), *rest)

    interpreter._convert_float, builder.create_dot = rounded, dot


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The same numbers on every device, already rounded to ``dtype``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)


def wide(arguments: object) -> object:
    """Half-precision tensors as float64, also inside of others; anything else as it is."""
    if isinstance(arguments, AttentionArgs):
        return replace(arguments, **{k: wide(v) for k, v in vars(arguments).items()})
    if isinstance(arguments, PagedKV):
        return PagedKV._make(map(wide, arguments))
    is_float = isinstance(arguments, Tensor) and arguments.is_floating_point()
    return arguments.double() if is_float else arguments  # type: ignore[attr-defined]


def assert_close(actual: Tensor, expected: Tensor, factor: float = 1.0) -> None:
    """Compares with a float64 result, at the tolerance of the dtype of ``actual``."""
    assert actual.shape == expected.shape
    assert torch.isfinite(actual).all()
    limit = TOLERANCES[actual.dtype] * factor * max(1.0, float(expected.abs().max()))
    error = float((actual.double() - expected).abs().max()) if actual.numel() else 0.0
    assert error <= limit, f"error {error:.3g} > {limit:.3g}"


def check(
    implementation: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    *arguments: object,
    **options: object,
) -> Tensor:
    """Runs both, the reference in float64; returns the implementation's result."""
    expected = reference(*map(wide, arguments), **{k: wide(v) for k, v in options.items()})
    actual = implementation(*arguments, **options)
    assert_close(actual, expected)
    return actual
