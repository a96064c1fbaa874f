"""Native CPU kernels: C++ in ``src``, compiled at first use for the machine that runs them."""

from atoll_kernels.cpu.native.build import BuildError, build_all
from atoll_kernels.cpu.native.library import library, status

__all__ = ["BuildError", "build_all", "library", "status"]
