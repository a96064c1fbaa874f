"""The Triton side of serving: the only place that imports ``triton_python_backend_utils``."""
