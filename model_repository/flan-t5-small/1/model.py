"""flan-t5-small: prompt to text."""

from atoll.serving import GenerateModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
