"""opensearch-neural-sparse-encoding-v2-distill: text to sparse vector."""

from atoll.serving import SparseModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
