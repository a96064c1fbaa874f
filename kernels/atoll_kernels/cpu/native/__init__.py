"""Native CPU kernels: C++ in ``src``, compiled at first use for the machine that runs them."""

from atoll_kernels.cpu.native.build import BuildError
from atoll_kernels.cpu.native.library import compile_ahead, library, status

__all__ = ["BuildError", "compile_ahead", "library", "status"]
