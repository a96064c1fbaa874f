"""siglip2-base-patch16-224: text to vector."""

from atoll.serving import EmbedModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
