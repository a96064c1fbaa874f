"""Where a thread's kernels are launched, and whether any can be.

Triton-language kernels go to the device that is current in the calling thread, wherever their
tensors are; each thread begins with the first GPU. So every thread that computes says where.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from atoll_kernels import dispatch

logger = logging.getLogger(__name__)


def enter(device: torch.device) -> None:
    """Makes ``device`` the calling thread's."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def prepare(device: torch.device) -> None:
    """``enter``; where no kernel of ours runs on the GPU, plain torch takes over, and the log says
    so. After ``dispatch.configure``, before a model is built.
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
