"""gemma-4-26B-A4B-it: prompt to text."""

from atoll.serving import GenerateModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
