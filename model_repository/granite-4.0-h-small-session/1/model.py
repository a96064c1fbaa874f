"""granite-4.0-h-small: one turn after another."""

from atoll.serving import SessionModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
