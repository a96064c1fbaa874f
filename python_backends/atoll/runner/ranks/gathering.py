"""Starts the followers of this machine, and accepts the connections of all followers."""

from __future__ import annotations

import contextlib
import logging
import secrets
import select
import socket
import time
from collections import deque
from pathlib import Path

from atoll import __version__
from atoll.config import Settings
from atoll.errors import RankLost
from atoll.runner.ranks.connection import Address, Peer, listen, network_key, shown
from atoll.runner.ranks.handshakes import Handshakes
from atoll.runner.ranks.layout import RankLayout, settings_of_rank
from atoll.runner.ranks.messages import Failed, Hello, Message
from atoll.runner.ranks.processes import LocalFollower

logger = logging.getLogger(__name__)

_LOOK_S = 0.1
_SAY_S = 30.0
# Importing torch takes longer than an answer: from a cold disk, half a minute.
_START_S = 60.0


class Link:
    """One follower's connection, its process if it is of this machine, and its answers."""

    def __init__(self, rank: int, peer: Peer, process: LocalFollower | None) -> None:
        self.rank, self.peer, self.process = rank, peer, process
        self.answers: deque[Message] = deque()
        self.last_heard = time.monotonic()

    @property
    def name(self) -> str:
        """For messages."""
        return f"rank {self.rank}" + (f" (process {self.process.pid})" if self.process else "")


class Gathering:
    """processes, links: by rank; filled by ``run``, so that they can be ended if it fails.

    scratch: a folder that only this user can read.
    """

    def __init__(self, layout: RankLayout, settings: Settings, scratch: Path) -> None:
        self.processes: dict[int, LocalFollower] = {}
        self.links: dict[int, Link] = {}
        self._layout, self._settings, self._scratch = layout, settings, scratch
        self._said = time.monotonic()
        self._start_s = max(_START_S, settings.shard_timeout_s)
        self._deadline = self._said + self._start_s

    def run(self) -> None:
        """Returns when all are connected; there is no time limit for ranks of other machines.

        Raises:
            ConfigError: it cannot listen for them, or there is no key.
            RankLost: a process of this machine has ended, or does not connect.
        """
        layout, own_key = self._layout, secrets.token_hex(32).encode()
        key = own_key if layout.num_nodes == 1 else network_key()
        path, handshakes = str(self._scratch / "leader"), Handshakes(key)
        with contextlib.ExitStack() as stack:
            stack.callback(handshakes.close)
            sockets: dict[socket.socket, Address] = {stack.enter_context(listen(path)): path}
            if layout.num_nodes > 1:
                address = ("", self._settings.shard_port)
                sockets[stack.enter_context(listen(address))] = address
            threads = settings_of_rank(self._settings, layout, 0).num_threads
            for rank in range(1, layout.num_local):
                self.processes[rank] = LocalFollower(
                    rank, path, key.decode(), self._scratch, threads
                )
            while len(self.links) < layout.size - 1:
                for found in select.select(list(sockets), [], [], _LOOK_S)[0]:
                    handshakes.begin(found.accept()[0], shown(sockets[found]))
                for peer, hello in handshakes.completed():
                    self._take(peer, hello)
                self._look_around(", ".join(map(shown, sockets.values())))

    def _look_around(self, places: str) -> None:
        for rank, process in self.processes.items():
            if rank not in self.links and (end := process.end(0)) is not None:
                raise RankLost(f"rank {rank} {end} before it was ready")
            if rank not in self.links and time.monotonic() > self._deadline:
                raise RankLost(
                    f"rank {rank} (process {process.pid}) has not connected within "
                    f"{self._start_s:g} s"
                )
        if time.monotonic() - self._said > _SAY_S:
            self._said = time.monotonic()
            missing = sorted(set(range(1, self._layout.size)) - self.links.keys())
            logger.warning("waiting for ranks %s at %s", missing, places)

    def _take(self, peer: Peer, hello: Message) -> None:
        """Refuses it if it is not one of the expected followers."""
        reason = self._refusal(hello)
        if reason is None and isinstance(hello, Hello):
            peer.limit_waiting(self._settings.shard_timeout_s)
            self.links[hello.rank] = Link(hello.rank, peer, self.processes.get(hello.rank))
            return
        with contextlib.suppress(OSError):
            peer.send(Failed(reason or ""))
        peer.close()
        logger.warning("a follower was refused: %s", reason)

    def _refusal(self, hello: Message) -> str | None:
        if not isinstance(hello, Hello):
            return "its first message is not a Hello"
        if hello.version != __version__:
            return f"rank {hello.rank} has Atoll {hello.version}; rank 0 has {__version__}"
        if not 0 < hello.rank < self._layout.size or hello.rank in self.links:
            return (
                f"rank is {hello.rank}, which is taken or not below num_shard, {self._layout.size}"
            )
        return None
