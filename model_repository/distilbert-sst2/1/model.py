"""distilbert-base-uncased-finetuned-sst-2-english: text to a score for each label."""

from atoll.serving import ClassifyModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
