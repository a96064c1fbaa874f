"""mistral-small-3.1-24b: one turn after another."""

from atoll.serving import SessionModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
