"""Connections between rank 0 and a follower: whole messages, after both proved to know the key.

On one machine, it is a Unix socket in a folder that only the user can read; between machines, TCP.
``multiprocessing.connection`` frames the bytes and checks the key in both directions (HMAC); its
pickling is not used.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path

from atoll.errors import ConfigError, NotReady
from atoll.runner.ranks import messages
from atoll.runner.ranks.messages import Message

KEY = "ATOLL_SHARD_KEY"
HANDSHAKE_S = 5  # also for the first message
_MIN_KEY = 16
_TIME = struct.Struct("ll")  # seconds, microseconds
# A machine that vanishes is noticed after half a minute.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}

Address = str | tuple[str, int]


class Peer:
    """The other end. Any thread may send; one thread receives."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        # The same socket by another descriptor, which the library reads and writes.
        self._frames = Connection(os.dup(connection.fileno()))
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """For ``select`` and ``poll``."""
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Raises OSError: the other end is gone, or does not read."""
        self.send_bytes(messages.to_bytes(message))

    def send_bytes(self, data: bytes) -> None:
        """A message as ``messages.to_bytes`` makes it."""
        with self._lock:
            self._frames.send_bytes(data)

    def receive(self) -> Message:
        """The next message.

        Raises:
            EOFError, OSError: the other end is gone.
            ConfigError: it is not a message.
        """
        return messages.from_bytes(self._frames.recv_bytes())

    def close(self) -> None:
        """May be called at any time, and more than once."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        # The shutdown wakes a thread that is sending, which then releases the lock.
        with self._lock, contextlib.suppress(OSError):
            self._socket.close()
            self._frames.close()

    def authenticate(self, key: bytes, *, is_listening: bool) -> None:
        """Until ``limit_waiting``, the end that listens waits ``HANDSHAKE_S`` for a message.

        Raises:
            NotReady: the other end has a different key.
            OSError: it does not respond, or is gone.
        """
        self._limit(socket.SO_RCVTIMEO, HANDSHAKE_S)
        checks = (deliver_challenge, answer_challenge)
        try:
            for check in checks if is_listening else reversed(checks):
                check(self._frames, key)
        except (AuthenticationError, AssertionError):
            raise NotReady(f"the other end has a different key; see {KEY}") from None
        except (EOFError, OSError) as error:
            raise ConnectionError(f"the other end has not sent its key: {error!r}") from None
        if not is_listening:
            self._limit(socket.SO_RCVTIMEO, 0)

    def limit_waiting(self, seconds: float) -> None:
        """After this time, a message that is sent or received only in part raises OSError."""
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            self._limit(option, seconds)

    def _limit(self, option: int, seconds: float) -> None:
        # In the kernel: Python's own time limit would make the descriptor non-blocking.
        whole = int(seconds)
        value = _TIME.pack(whole, int((seconds - whole) * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, option, value)


def listen(address: Address) -> socket.socket:
    """A socket that followers connect to.

    Raises:
        ConfigError: nothing can listen there.
    """
    try:
        if isinstance(address, str):
            found = socket.socket(socket.AF_UNIX)
            found.bind(address)
            found.listen()
            return found
        return socket.create_server(address, reuse_port=False)
    except OSError as error:
        raise ConfigError(f"cannot listen for ranks at {shown(address)}: {error}") from None


def connect(address: Address, key: bytes) -> Peer:
    """To rank 0.

    Raises:
        OSError: nothing listens there yet, or it does not respond.
        NotReady: the key is a different one.
    """
    if isinstance(address, str):
        found = socket.socket(socket.AF_UNIX)
        found.connect(address)
    else:
        found = socket.create_connection(address, timeout=HANDSHAKE_S)
        found.settimeout(None)
    peer = Peer(_prepared(found))
    try:
        peer.authenticate(key, is_listening=False)
    except (NotReady, OSError):
        peer.close()
        raise
    return peer


def accepted(connection: socket.socket, key: bytes) -> Peer:
    """Authenticates a follower that has connected.

    Raises:
        NotReady: it has a different key.
        OSError: it does not respond, or is gone.
    """
    connection.settimeout(None)
    peer = Peer(_prepared(connection))
    try:
        peer.authenticate(key, is_listening=True)
    except (NotReady, OSError):
        peer.close()
        raise
    return peer


def network_key() -> bytes:
    """The key that machines share.

    Raises:
        ConfigError: there is none, or it is too short.
    """
    text = os.environ.get(KEY, "")
    if len(text) < _MIN_KEY:
        raise ConfigError(
            f"{KEY} has {len(text)} characters; the ranks of several machines need the same one "
            f"of at least {_MIN_KEY}"
        )
    return text.encode()


def parse_address(text: str) -> Address:
    """A socket's path, or HOST:PORT.

    Raises:
        ConfigError: it is neither.
    """
    if "/" in text:
        return text
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"--leader is {text!r}; expected HOST:PORT, with a port up to 65535")
    return host.strip("[]"), int(port)


def shown(address: Address) -> str:
    """For messages."""
    if isinstance(address, str):
        return str(Path(address))
    host, port = address
    return f"{host or '*'}:{port}"


def _prepared(connection: socket.socket) -> socket.socket:
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # Linux
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection
