"""The device on which a thread launches kernels, and whether they can be launched at all.

Triton-language kernels are launched on the current device of the calling thread, wherever their
tensors are, and each thread starts with the first GPU. So every thread that computes sets its own.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from atoll_kernels import dispatch

logger = logging.getLogger(__name__)


def enter(device: torch.device) -> None:
    """Makes ``device`` the current device of the calling thread."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def prepare(device: torch.device) -> None:
    """Calls ``enter``, and switches to plain torch, with a warning, if our kernels do not run here.

    Call it after ``dispatch.configure`` and before a model is built.
    """
    enter(device)
    policy = dispatch.policy()
    if device.type != "cuda" or policy.disable_custom_kernels:
        return
    from atoll_kernels import gpu

    reason = gpu.failure(device)
    if reason is not None:
        logger.warning(
            "Triton-language kernels do not run on %s; plain torch serves the model, much slower. "
            "They need a C compiler and Python's headers (Debian, Ubuntu: apt-get install gcc "
            "python3-dev), and a folder to keep what is compiled (TRITON_CACHE_DIR). Reason: %s",
            device, reason,
        )  # fmt: skip
        dispatch.configure(replace(policy, disable_custom_kernels=True))
