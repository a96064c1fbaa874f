"""Llama-2-7b-hf: prompt to text."""

from atoll.serving import GenerateModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
