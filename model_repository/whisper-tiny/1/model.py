"""whisper-tiny: speech to text."""

from atoll.serving import TranscribeModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
