"""A model instance: its settings, its checkpoint, its loading thread, and the end of its process.

Models are loaded on a temporary thread, so that only the engine's thread has OpenMP workers.
libgomp keeps a pool of workers for every living thread that has run a parallel region. If a process
has more workers than cores, they go to sleep instead of spinning until the next region, and a
wake-up takes longer than most kernels of a decoding step.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, TypeVar

from atoll.config import Settings
from atoll.models.task_settings import check_parameters
from atoll.weights.files import resolve
from atoll.weights.versions import entry_adapters, served_versions, version_model_id

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


def in_temporary_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls ``function(*args, **kwargs)`` on a thread that ends, with its workers, afterwards.

    What it has freed goes back to the system. Raises whatever it raises.
    """
    with ThreadPoolExecutor(1, "atoll-loading") as executor:
        result = executor.submit(function, *args, **kwargs).result()
    # Only glibc keeps freed memory, and only it has this.
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
    return result


def instance_settings(args: Mapping[str, str], task: str) -> Settings:
    """The settings of a model instance, from what ``initialize`` is given.

    ``model_id`` is that of the version. If no device is set, an instance of kind GPU uses the one
    that Triton has assigned to it.

    Raises:
        ConfigError: a parameter is unknown, has an invalid value, or has no meaning for the task.
    """
    from atoll.serving.triton import tensors

    parameters = tensors.settings_parameters(args["model_config"])
    entry, version = Path(args["model_repository"]), args["model_version"]
    if own := version_model_id(entry, version, parameters.get("model_id", "")):
        parameters["model_id"] = own
    if adapters := parameters.get("lora_adapters"):
        parameters["lora_adapters"] = entry_adapters(entry, version, adapters)
    settings = Settings.read(parameters)
    check_parameters(parameters, task, args["model_name"])
    if settings.device == "auto" and args.get("model_instance_kind") == "GPU":
        return replace(settings, device=f"cuda:{args['model_instance_device_id']}")
    return settings


def checkpoint_folder(args: Mapping[str, str], settings: Settings) -> Path:
    """The folder of the checkpoint that an instance runs; it is logged.

    settings: those of ``instance_settings``.

    Raises:
        ConfigError: it does not exist, or cannot be downloaded.
    """
    import triton_python_backend_utils as pb_utils

    folder = resolve(settings.model_id, settings.revision, settings.huggingface_hub_cache)
    name, version = args["model_name"], args["model_version"]
    pb_utils.Logger.log_info(f"{name}, version {version}, runs {folder}")
    entry = Path(args["model_repository"])
    policy = json.loads(args["model_config"]).get("version_policy") or {}
    served = served_versions(entry, policy)
    if len(served) > 1 and not folder.is_relative_to((entry / version).resolve()):
        logger.warning(
            "%s, version %s, runs %s, as does every version without a checkpoint in its own folder",
            name, version, folder,
        )  # fmt: skip
    return folder


def end_without_teardown() -> None:
    """Ends the stub's process without tearing down the interpreter.

    Python would free objects that still need the stub, and libraries would free data that their
    running threads use: each process would end with a segmentation fault.
    """
    if "c_python_backend_utils" in sys.modules:  # only inside a stub
        atexit.register(end_at_once, 0)


def end_at_once(status: int) -> None:
    """Ends the process, whatever its threads do."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
