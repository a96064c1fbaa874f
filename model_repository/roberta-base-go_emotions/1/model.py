"""roberta-base-go_emotions: text to a score for each label."""

from atoll.serving import ClassifyModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
