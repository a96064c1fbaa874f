"""clip-vit-base-patch32: text to vector."""

from atoll.serving import EmbedModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
