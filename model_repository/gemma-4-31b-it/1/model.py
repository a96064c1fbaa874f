"""gemma-4-31B-it: prompt to text."""

from atoll.serving import GenerateModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
