"""Mixtral-8x7B-Instruct-v0.1: prompt to text."""

from atoll.serving import GenerateModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
