"""Client of a Triton server that runs Atoll; needs tritonclient and numpy, no torch."""

__version__ = "0.1.0"
__all__ = ["__version__"]
