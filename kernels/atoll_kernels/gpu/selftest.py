"""Whether kernels run at all: compiles and runs the smallest one."""

from __future__ import annotations

import torch


def failure(device: torch.device) -> str | None:
    """Why kernels cannot be compiled or launched on ``device``; None: they can.

    Raises:
        torch.OutOfMemoryError: the device's memory is full.
    """
    try:
        from atoll_kernels.gpu.activation import activate

        done = activate(torch.full((1, 16), 2.0, device=device), "relu")
        if done is None or not bool((done == 2).all()):
            return "a kernel gave a wrong result"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else ''}"
    return None
