"""Encoded images to the pixels that a model takes; knows neither models nor requests."""
