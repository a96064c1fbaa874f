"""splade-v3-distilbert: text to sparse vector."""

from atoll.serving import SparseModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
