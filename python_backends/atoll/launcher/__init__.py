"""Starts a real tritonserver, monitors it, and leaves nothing behind when it stops."""

from atoll.launcher.options import ServerOptions
from atoll.launcher.ports import free_ports
from atoll.launcher.server import ServerProcess

__all__ = ["ServerOptions", "ServerProcess", "free_ports"]
