"""Llama-2-13b-hf: prompt to text."""

from atoll.serving import GenerateModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
