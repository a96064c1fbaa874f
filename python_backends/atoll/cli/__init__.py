"""The ``atoll`` command."""

from atoll.cli.app import main

__all__ = ["main"]
