"""multilingual-e5-small: text to vector."""

from atoll.serving import EmbedModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
