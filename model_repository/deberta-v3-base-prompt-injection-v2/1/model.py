"""deberta-v3-base-prompt-injection-v2: text to a score for each label."""

from atoll.serving import ClassifyModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
