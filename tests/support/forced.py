"""A pytest plugin: the kernels named in FORCED_KERNELS run, whatever a test or setting asks for.

FORCED_KERNELS is a JSON object of fields of ``KernelPolicy``.
"""

import json
import os
from dataclasses import replace
from typing import Any

from atoll_kernels import dispatch
from atoll_kernels.backends import KernelPolicy

_FORCED: dict[str, Any] = json.loads(os.environ["FORCED_KERNELS"])
_configure = dispatch.configure


def _forced(policy: KernelPolicy) -> None:
    _configure(replace(policy, **_FORCED))


dispatch.configure = _forced
_forced(KernelPolicy())
if _FORCED.get("family") == "gpu":
    from interpreted import prepare_interpreter

    prepare_interpreter()


def pytest_report_header() -> str:
    return f"forced kernels: {dispatch.policy()}"
