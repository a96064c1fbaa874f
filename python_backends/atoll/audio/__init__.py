"""Encoded sounds to waveforms, and those to the spectrograms that a model takes."""
