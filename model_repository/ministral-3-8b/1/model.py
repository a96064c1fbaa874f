"""Ministral-3-8B-Instruct-2512-BF16: prompt to text."""

from atoll.serving import GenerateModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
