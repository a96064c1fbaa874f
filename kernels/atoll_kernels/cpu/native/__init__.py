"""Native CPU kernels: C++ in ``src``, compiled at first use for the machine that runs them."""

from atoll_kernels.cpu.native.library import library, status

__all__ = ["library", "status"]
