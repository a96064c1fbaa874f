"""answerai-colbert-small-v1: text to a vector per token."""

from atoll.serving import MultiVectorModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
