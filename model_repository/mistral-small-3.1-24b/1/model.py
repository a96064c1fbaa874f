"""Mistral-Small-3.1-24B-Instruct-2503: prompt to text."""

from atoll.serving import GenerateModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
