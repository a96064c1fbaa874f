"""snowflake-arctic-embed-m-v2.0: text to vector."""

from atoll.serving import EmbedModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
