"""What a ``model.py`` imports as its ``TritonPythonModel``, one class per task.

Classes are imported when asked for: outside the server ``triton_python_backend_utils`` does not
exist, and ``atoll.serving.triton.tensor_specs`` must be importable all the same.
"""

import importlib
from typing import Any

_MODULES = {
    "ClassifyModel": "classify",
    "EmbedModel": "embed",
    "GenerateModel": "generate",
    "RerankModel": "classify",
    "RetrieveRerankModel": "pipeline",
    "SessionModel": "session",
    "SparseModel": "embed",
    "TokensModel": "tokenize",
}


def __getattr__(name: str) -> Any:
    """The class of that name, from the module that holds it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.tasks.{_MODULES[name]}"), name)
