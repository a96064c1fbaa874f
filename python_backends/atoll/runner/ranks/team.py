"""Rank 0's view of the followers: starts them, sends them messages, monitors and ends them.

If a follower ends, fails or is silent for ``shard_timeout_s``, its part of the model is lost. The
monitoring thread then ends all followers and calls ``on_failed``, which answers the open requests
and ends the process; the model is loaded again as a whole.

    start -> Load, Join -> Cache, Step ..., Measure -> Cache, Capture, Step ... -> Bye
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import select
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from atoll.config import Settings
from atoll.environment import SCRATCH
from atoll.errors import AtollError, ConfigError, RankLost
from atoll.runner.ranks import group, messages
from atoll.runner.ranks.gathering import Gathering, Link
from atoll.runner.ranks.layout import RankLayout
from atoll.runner.ranks.messages import Alive, Bye, Failed, Join, Load, Measure, Message, Spare

logger = logging.getLogger(__name__)

_LOOK_S = 0.1
# After an error, the monitoring thread gets so long to find the cause.
_REASON_S = 0.3
_END_S = 5.0

OnFailed = Callable[[RankLost], None]


class Team:
    """The other ranks, as seen by rank 0. Only one thread may call ``send`` and ``ask``."""

    def __init__(self, settings: Settings, layout: RankLayout) -> None:
        self.layout, self._timeout_s = layout, settings.shard_timeout_s
        self._scratch = Path(tempfile.mkdtemp(prefix="atoll-ranks-", dir=os.environ.get(SCRATCH)))
        self._gathering = Gathering(layout, settings, self._scratch)
        self._changed = threading.Condition()
        self._reason: str | None = None  # why the ranks are lost
        self._on_failed: OnFailed | None = None
        self._is_leaving = False
        self._thread = threading.Thread(target=self._watch, name="atoll-ranks", daemon=True)

    @classmethod
    def start(cls, settings: Settings, folder: Path, layout: RankLayout) -> Team:
        """Returns once all followers are connected and the process group is initialized.

        Raises:
            ConfigError: followers cannot connect, or there is no key for other machines.
            RankLost: a follower ended or failed meanwhile.
        """
        team = cls(settings, layout)
        try:
            team._gathering.run()
            team._thread.start()
            team._introduce(settings, folder)
        except BaseException as error:
            raise team.abandon(error) from error
        return team

    def send(self, message: Message) -> None:
        """Sends a message to every follower.

        Raises:
            RankLost: a rank has failed.
        """
        data = messages.to_bytes(message)
        try:
            for follower in self._gathering.links.values():
                follower.peer.send_bytes(data)
        except OSError as error:
            raise self.failed(error) from None

    def ask(self, message: Message) -> list[Message]:
        """Sends a message and returns every follower's answer; waits as long as all are alive.

        Raises:
            RankLost: a rank has failed.
        """
        self.send(message)
        return self.answers()

    def answers(self) -> list[Message]:
        """Waits for the next answer of every follower; raises as ``ask``."""
        followers = self._gathering.links.values()
        with self._changed:
            self._changed.wait_for(lambda: self._reason or all(f.answers for f in followers))
            if self._reason is not None:
                raise RankLost(self._reason)
            return [follower.answers.popleft() for follower in followers]

    def least_spare_bytes(self, own: int) -> int:
        """The minimum over all ranks of the bytes that a cache may use. own: rank 0's."""
        found = self.ask(Measure())
        return min(own, *(answer.num_bytes for answer in found if isinstance(answer, Spare)))

    def failed(self, error: BaseException) -> RankLost:
        """Ends all followers after an error on this rank, whose cause may be another rank."""
        with self._changed:
            self._changed.wait_for(lambda: self._reason, _REASON_S)
        if self._reason is None:
            logger.error("rank 0 failed", exc_info=error)
        return self._fail(f"rank 0 failed: {type(error).__name__}: {error}")

    def watch(self, on_failed: OnFailed) -> None:
        """``on_failed`` is called once, on the monitoring thread, if a rank fails or has failed."""
        self._on_failed = on_failed

    @property
    def failure(self) -> RankLost | None:
        """Why the ranks cannot be used any more; None: they can."""
        return None if self._reason is None else RankLost(self._reason)

    def close(self) -> None:
        """Ends the followers: first ``Bye``, then the process group, then the processes."""
        self._is_leaving = True
        if self._reason is None:
            with contextlib.suppress(RankLost):
                self.send(Bye())
        group.leave()
        for process in self._gathering.processes.values():
            process.end(_END_S)
        self._end_all()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(_END_S)

    def abandon(self, error: BaseException) -> BaseException:
        """Ends everything after an error while loading; returns the error to be raised."""
        is_own = isinstance(error, AtollError) or not isinstance(error, Exception)
        found = error if is_own else self.failed(error)
        self._is_leaving = True
        self._fail(str(found))
        group.leave()
        return found

    def _introduce(self, settings: Settings, folder: Path) -> None:
        """Tells the followers about the model; then all ranks join the process group."""
        layout = self.layout
        if layout.num_nodes == 1:
            told, store = group.file_store(self._scratch / "store", layout.size)
        else:
            told, store = group.tcp_store(layout.size, self._timeout_s)
        config = (folder / "config.json").read_bytes()
        self.ask(
            Load(
                dataclasses.asdict(settings), str(folder.resolve()),
                hashlib.sha256(config).hexdigest(), str(layout.device), layout.size,
                layout.num_nodes, told,
            )
        )  # fmt: skip
        self.send(Join())
        is_local = layout.num_nodes == 1
        group.join(store, 0, layout.size, layout.device, self._timeout_s, is_local=is_local)

    def _watch(self) -> None:
        poller = select.poll()
        by_number = {f.peer.fileno(): f for f in self._gathering.links.values()}
        for number in by_number:
            poller.register(number, select.POLLIN)
        while not self._is_leaving and self._reason is None:
            for number, _ in poller.poll(_LOOK_S * 1000):
                self._hear(by_number[number])
            for follower in by_number.values():
                if time.monotonic() - follower.last_heard > self._timeout_s:
                    self._fail(
                        f"{follower.name} has not answered for {self._timeout_s:g} s "
                        "(shard_timeout_s)"
                    )
        while not self._is_leaving and self._on_failed is None:
            time.sleep(_LOOK_S)
        if self._reason is not None and self._on_failed is not None and not self._is_leaving:
            self._on_failed(RankLost(self._reason))

    def _hear(self, follower: Link) -> None:
        try:
            message = follower.peer.receive()
        except (EOFError, OSError, ConfigError) as error:
            if not self._is_leaving:
                end = follower.process.end(1.0) if follower.process is not None else None
                self._fail(f"{follower.name} {end or f'is lost: {error!r}'}")
            return
        follower.last_heard = time.monotonic()
        if isinstance(message, Failed):
            self._fail(f"{follower.name} failed: {message.reason}")
        elif not isinstance(message, Alive):
            with self._changed:
                follower.answers.append(message)
                self._changed.notify_all()

    def _fail(self, reason: str) -> RankLost:
        """Ends every follower, so that none waits for another. The first reason is kept."""
        with self._changed:
            if self._reason is None:
                self._reason = f"{reason}; the model has {self.layout.size} ranks"
                if not self._is_leaving:
                    logger.error("%s", self._reason)
            self._changed.notify_all()
        self._end_all()
        return RankLost(self._reason)

    def _end_all(self) -> None:
        """Ends all processes and removes all files, whatever state the followers are in."""
        for process in self._gathering.processes.values():
            process.kill()
        for follower in self._gathering.links.values():
            follower.peer.close()
        group.remove_shared_memory()
        shutil.rmtree(self._scratch, ignore_errors=True)
