"""Loading on a thread that ends, so that the engine's thread has torch's only OpenMP workers.

libgomp keeps a pool of workers for every living thread that ever ran a parallel region. While a
process has more of them than cores, workers sleep at once instead of waiting for the next region
awake, and a wake-up costs more than most of a decoding step's kernels.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ParamSpec, TypeVar

from atoll.config import Settings

P = ParamSpec("P")
R = TypeVar("R")


def on_passing_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """``function(*args, **kwargs)``, whose thread and workers are gone afterwards.

    Raises what it raises.
    """
    with ThreadPoolExecutor(1, "atoll-loading") as executor:
        return executor.submit(function, *args, **kwargs).result()


def instance_settings(args: Mapping[str, str]) -> Settings:
    """The settings of a model instance, from what ``initialize`` is given.

    Where the device is left open, an instance of kind GPU takes the one that Triton gave it.

    Raises:
        ConfigError: a parameter is not known, or has a value that cannot be used.
    """
    from atoll.serving import tensors

    settings = Settings.read(tensors.settings_parameters(args["model_config"]))
    if settings.device == "auto" and args.get("model_instance_kind") == "GPU":
        return replace(settings, device=f"cuda:{args['model_instance_device_id']}")
    return settings


def end_without_teardown() -> None:
    """Has the stub end at once when it has nothing more to do.

    The interpreter would free objects that need the stub, and libraries their data while their
    threads still run: a segmentation fault at the end of each process.
    """
    if "c_python_backend_utils" in sys.modules:  # only inside a stub
        atexit.register(_end)


def _end() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
