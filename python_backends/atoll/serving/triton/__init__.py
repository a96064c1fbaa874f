"""Triton's API: the only folder that imports ``triton_python_backend_utils``."""
