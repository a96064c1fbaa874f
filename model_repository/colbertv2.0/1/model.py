"""colbertv2.0: text to a vector per token."""

from atoll.serving import MultiVectorModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
