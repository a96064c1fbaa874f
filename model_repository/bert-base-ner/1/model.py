"""bert-base-NER: text to entities."""

from atoll.serving import TokenClassifyModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
