"""multilingual-e5-large-instruct: text to vector."""

from atoll.serving import EmbedModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
