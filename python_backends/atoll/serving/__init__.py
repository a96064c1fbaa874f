"""The classes that a ``model.py`` exports as ``TritonPythonModel``, one per task.

They are imported on first use: ``triton_python_backend_utils`` exists only inside the server, but
``atoll.serving.triton.tensor_specs`` must be importable everywhere.
"""

import importlib
from typing import Any

_MODULES = {
    "ClassifyModel": "classify",
    "EmbedModel": "embed",
    "GenerateModel": "generate",
    "HybridSearchModel": "hybrid",
    "MultiVectorModel": "multi_vector",
    "RerankModel": "classify",
    "RetrieveRerankModel": "pipeline",
    "SessionModel": "session",
    "SparseModel": "embed",
    "TokenClassifyModel": "token_classify",
    "TokensModel": "tokenize",
    "TranscribeModel": "transcribe",
}


def __getattr__(name: str) -> Any:
    """The class of that name, from the module that holds it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.tasks.{_MODULES[name]}"), name)
