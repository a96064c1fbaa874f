"""Handshakes with followers, each on its own thread: a silent connection delays no other."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time

from atoll.errors import ConfigError, NotReady
from atoll.runner.ranks.connection import HANDSHAKE_S, Peer, accepted
from atoll.runner.ranks.messages import Message

logger = logging.getLogger(__name__)


class Handshakes:
    """Connections that have not sent their key and first message yet; used by one thread."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._lock = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}
        self._done: queue.SimpleQueue[tuple[Peer, Message]] = queue.SimpleQueue()

    def begin(self, connection: socket.socket, place: str) -> None:
        """place: where it was accepted, for messages."""
        with self._lock:
            self._deadlines[connection] = time.monotonic() + HANDSHAKE_S
        threading.Thread(
            target=self._receive, args=(connection, place), name="atoll-handshake", daemon=True
        ).start()

    def completed(self) -> list[tuple[Peer, Message]]:
        """Those that know the key, with their first messages. Ends those that are late."""
        self._end(before=time.monotonic())
        return [self._done.get() for _ in range(self._done.qsize())]

    def close(self) -> None:
        """Ends all others."""
        self._end(before=float("inf"))
        for peer, _ in self.completed():
            peer.close()

    def _receive(self, connection: socket.socket, place: str) -> None:
        peer = None
        try:
            peer = accepted(connection, self._key)
            done = peer, peer.receive()
            with self._lock:
                if self._deadlines.pop(connection, None) is not None:
                    self._done.put(done)
                    return
        except (NotReady, EOFError, OSError, ConfigError) as error:
            with self._lock:
                self._deadlines.pop(connection, None)
            logger.warning("at %s: a follower was not accepted: %r", place, error)
        if peer is not None:
            peer.close()

    def _end(self, before: float) -> None:
        """A limit of the whole handshake: that of the socket starts again with every byte."""
        with self._lock:
            for connection, deadline in list(self._deadlines.items()):
                if deadline < before:
                    del self._deadlines[connection]
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)  # wakes its thread, which closes it
