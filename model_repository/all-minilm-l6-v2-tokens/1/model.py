"""sentence-transformers/all-MiniLM-L6-v2: text to token ids."""

from atoll.serving import TokensModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
