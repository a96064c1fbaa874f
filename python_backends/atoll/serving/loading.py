"""Loading on a thread that ends, so that the engine's thread has the only OpenMP workers.

libgomp keeps a pool of workers for every living thread that ever ran a parallel region. While a
process has more of them than cores, workers sleep at once instead of waiting for the next region
awake, and a wake-up costs more than most of a decoding step's kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def on_passing_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """``function(*args, **kwargs)``, whose thread and workers are gone afterwards.

    Raises what it raises.
    """
    with ThreadPoolExecutor(1, "atoll-loading") as executor:
        return executor.submit(function, *args, **kwargs).result()
