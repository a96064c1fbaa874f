"""CPU implementations: oneDNN's products, and native kernels (C++ over a plain C ABI)."""

from atoll_kernels.cpu.linear import linear, pack_linear

__all__ = ["linear", "pack_linear"]
