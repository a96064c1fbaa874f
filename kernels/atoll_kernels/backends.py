"""The choice of an attention implementation for a device, and why others were not chosen.

Every backend has a function ``validate(capabilities, spec, policy)``, which returns the reasons why
it cannot serve the spec. The first of ``BACKENDS`` without such reasons is chosen, separately for
encoding, prefill and decoding. Nothing here touches a device except ``Capabilities.of``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

Phase = Literal["encode", "prefill", "decode"]
Vendor = Literal["nvidia", "amd", "interpreter", "cpu"]

LEAST_CAPABILITY = (7, 5)
AMD_ARCHITECTURES = ("gfx90a", "gfx942", "gfx950")
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Capabilities:
    """A device, and which packages are installed.

    compute_capability: NVIDIA's; otherwise (0, 0). architecture: sm90, gfx90a, ... or the vendor.
    """

    name: str
    vendor: Vendor
    architecture: str
    compute_capability: tuple[int, int] = (0, 0)
    has_triton: bool = True
    has_flash_attn: bool = False

    @classmethod
    def of(cls, device: torch.device) -> Capabilities:
        """Asks the driver; for the CPU, only what is installed."""
        installed = (_is_installed("triton"), _is_installed("flash_attn"))
        if device.type != "cuda":
            return cls("CPU", "cpu", "cpu", (0, 0), *installed)
        properties = torch.cuda.get_device_properties(device)
        if torch.version.hip is not None:
            architecture = str(properties.gcnArchName).split(":")[0]
            return cls(properties.name, "amd", architecture, (0, 0), *installed)
        capability = (properties.major, properties.minor)
        architecture = f"sm{properties.major}{properties.minor}"
        return cls(properties.name, "nvidia", architecture, capability, *installed)

    @property
    def is_turing(self) -> bool:
        """Compute capability 7.5, whose tensor cores Triton-lang does not support."""
        return self.vendor == "nvidia" and self.compute_capability == (7, 5)


@dataclass(frozen=True)
class AttentionSpec:
    """What a model needs of attention, independent of lengths.

    value_dim: features of values, where they have fewer than keys. latent: they are the first
    features of the keys, of a single head (MLA).
    """

    phase: Phase
    dtype: torch.dtype
    head_dim: int
    causal: bool = True
    window: bool = False
    alibi: bool = False
    relative_bias: bool = False
    softcap: bool = False
    sinks: bool = False
    value_dim: int | None = None
    latent: bool = False


@dataclass(frozen=True)
class KernelPolicy:
    """The user's settings.

    disable_custom_kernels: plain torch everywhere. use_flash_attention None: on, except on Turing.
    For tests and benchmarks: family ("cpu", "gpu") replaces the device's own, and attention_backend
    (a name in ``BACKENDS``) is preferred wherever it can serve a call.
    """

    disable_custom_kernels: bool = False
    use_flash_attention: bool | None = None
    family: str | None = None
    attention_backend: str | None = None


@dataclass(frozen=True)
class Choice:
    """The backend, and why each one before it was not chosen."""

    backend: str
    refused: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Backend:
    """A candidate. ``validate`` returns the reasons why it cannot serve a spec."""

    name: str
    text: str
    validate: Callable[[Capabilities, AttentionSpec, KernelPolicy], list[str]]


def refusal(capabilities: Capabilities) -> str | None:
    """Why a GPU cannot be used at all; None: it can."""
    c = capabilities
    if c.vendor == "nvidia" and c.compute_capability < LEAST_CAPABILITY:
        major, minor = c.compute_capability
        return f"{c.name} has compute capability {major}.{minor}; Atoll needs 7.5 (Turing) or newer"
    if c.vendor == "amd" and c.architecture not in AMD_ARCHITECTURES:
        known = ", ".join(AMD_ARCHITECTURES)
        return f"{c.name} is {c.architecture}; of AMD's architectures Atoll serves {known}"
    return None


def dtype_refusal(capabilities: Capabilities, dtype: torch.dtype) -> str | None:
    """Why a device cannot be used with a dtype; None: it can."""
    if capabilities.is_turing and dtype == torch.bfloat16:
        return f"{capabilities.name} has compute capability 7.5: float16 only, no bfloat16"
    return None


@cache
def choose(capabilities: Capabilities, spec: AttentionSpec, policy: KernelPolicy) -> Choice:
    """The first backend that can serve ``spec``; the last one always can.

    Raises:
        KeyError: there is no backend ``policy.attention_backend``.
    """
    wanted = policy.attention_backend
    refused: list[tuple[str, str]] = []
    named = {backend.name: backend for backend in BACKENDS}
    for backend in BACKENDS if wanted is None else (named[wanted], *BACKENDS):
        reasons = backend.validate(capabilities, spec, policy)
        if not reasons:
            return Choice(backend.name, tuple(refused))
        refused.append((backend.name, "; ".join(reasons)))
    raise AssertionError("SDPA serves everything")


def _own(c: Capabilities, spec: AttentionSpec, policy: KernelPolicy) -> list[str]:
    reasons = _custom(c, policy)
    if not c.has_triton:
        reasons.append("triton is not installed")
    if spec.phase != "decode":
        reasons += _flash(c, policy)
    if spec.value_dim is not None:
        return reasons + _latent(c, spec)
    return reasons + (_wide(c, spec) if spec.head_dim > 256 else [])


def _wide(c: Capabilities, spec: AttentionSpec) -> list[str]:
    """Heads of up to 512 features, as in Gemma 4's layers that see the whole text."""
    reasons = []
    if spec.head_dim > 512:
        reasons.append(f"head size {spec.head_dim} is more than 512")
    if spec.dtype not in _HALF and c.vendor != "interpreter":
        reasons.append(f"head size {spec.head_dim} in {_name(spec.dtype)} needs too many registers")
    if any((spec.window, spec.alibi, spec.relative_bias, spec.softcap, spec.sinks)):
        reasons.append("no window, bias, soft cap or sinks with more than 256 features")
    return reasons


def _latent(c: Capabilities, spec: AttentionSpec) -> list[str]:
    """Rows of the widths of DeepSeek's models, in a paged cache."""
    if not spec.latent or spec.phase == "encode":
        return ["values narrower than keys are served in a paged cache of latent rows alone"]
    reasons, value_dim = [], spec.value_dim or 0
    rest = spec.head_dim - value_dim
    if value_dim > 512 or rest > 64:
        reasons.append(f"latent rows of {value_dim} + {rest} features are more than 512 + 64")
    if spec.dtype not in _HALF and c.vendor != "interpreter":
        reasons.append(f"no latent rows in {_name(spec.dtype)}, which needs too many registers")
    biases = (spec.window, spec.alibi, spec.relative_bias, spec.softcap, spec.sinks)
    if any(biases):
        reasons.append("no window, bias, soft cap or sinks with latent rows")
    return reasons


def _flash_attn(c: Capabilities, spec: AttentionSpec, policy: KernelPolicy) -> list[str]:
    reasons = [] if c.has_flash_attn else ["flash-attn is not installed"]
    return reasons + _dao(c, spec, policy)


def _torch_flash(c: Capabilities, spec: AttentionSpec, policy: KernelPolicy) -> list[str]:
    reasons = ["torch builds it without ALiBi"] if spec.alibi else []
    return reasons + _dao(c, spec, policy)


def _dao(c: Capabilities, spec: AttentionSpec, policy: KernelPolicy) -> list[str]:
    """The requirements of both builds of flash-attention 2."""
    reasons = _custom(c, policy) + _flash(c, policy)
    if c.vendor != "nvidia" or c.compute_capability < (8, 0):
        reasons.append("needs compute capability 8.0")
    if spec.phase == "decode":
        reasons.append("its paged cache needs blocks of 256 tokens")
    if spec.dtype not in _HALF:
        reasons.append(f"no {_name(spec.dtype)}")
    if spec.head_dim % 8 or spec.head_dim > 256:
        reasons.append(f"head size {spec.head_dim} is no multiple of 8 up to 256")
    if spec.relative_bias:
        reasons.append("no relative bias")
    return reasons + _softcap(spec) + _sinks(spec) + _narrow_values(spec)


def _efficient(c: Capabilities, spec: AttentionSpec, policy: KernelPolicy) -> list[str]:
    """CUTLASS kernels in torch; masks become a bias tensor over padded sequences."""
    reasons = _custom(c, policy)
    if c.vendor != "nvidia":
        reasons.append("NVIDIA only")
    elif c.compute_capability >= (10, 0):
        reasons.append("not built for compute capability 10.0 and newer")
    if spec.phase == "decode":
        reasons.append("no paged cache")
    if spec.dtype not in (*_HALF, torch.float32):
        reasons.append(f"no {_name(spec.dtype)}")
    elif spec.head_dim * spec.dtype.itemsize % 16:
        reasons.append(f"rows of head size {spec.head_dim} are not aligned to 16 bytes")
    return reasons + _softcap(spec) + _sinks(spec) + _narrow_values(spec)


def _sdpa(c: Capabilities, spec: AttentionSpec, policy: KernelPolicy) -> list[str]:
    return []


def _custom(c: Capabilities, policy: KernelPolicy) -> list[str]:
    reasons = []
    if policy.disable_custom_kernels:
        reasons.append("--disable-custom-kernels")
    if c.vendor == "cpu":
        reasons.append("needs a GPU")
    return reasons


def _flash(c: Capabilities, policy: KernelPolicy) -> list[str]:
    if policy.use_flash_attention is False:
        return ["USE_FLASH_ATTENTION=False"]
    if policy.use_flash_attention is None and c.is_turing:
        return ["flash attention is off on compute capability 7.5 (USE_FLASH_ATTENTION=True)"]
    return []


def _softcap(spec: AttentionSpec) -> list[str]:
    return ["no soft cap of scores"] if spec.softcap else []


def _sinks(spec: AttentionSpec) -> list[str]:
    return ["no attention sinks"] if spec.sinks else []


def _narrow_values(spec: AttentionSpec) -> list[str]:
    return ["no values narrower than keys"] if spec.value_dim is not None else []


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


BACKENDS = (
    Backend("atoll", "Atoll's Triton-language kernels", _own),
    Backend("flash-attn", "the flash-attn package, where it is installed", _flash_attn),
    Backend("torch-flash", "flash-attention 2 inside torch", _torch_flash),
    Backend("torch-efficient", "memory-efficient attention (CUTLASS) inside torch", _efficient),
    Backend("sdpa", "torch's scaled_dot_product_attention, one sequence at a time", _sdpa),
)
