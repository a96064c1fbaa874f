"""The engine's thread: takes commands from other threads and runs steps while there is work.

``submit`` and ``cancel`` never block; tokens are delivered to each request's sink, on this thread.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from atoll.engine.core import EngineCore
from atoll.engine.request import Request
from atoll.engine.stats import EngineStats, adapters_in_use
from atoll.errors import (
    AtollError,
    Cancelled,
    GenerationError,
    NotReady,
    Overloaded,
    RankLost,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How often an idle engine wakes up to expire conversations.
_IDLE_S = 1.0
# After so many failures in a row, the engine ends.
_MAX_FAILURES = 5


@dataclass(frozen=True)
class Add:
    """Adds a request."""

    request: Request


@dataclass(frozen=True)
class Cancel:
    """Ends a request with ``Cancelled``."""

    request_id: str


@dataclass(frozen=True)
class Forget:
    """Frees a conversation's blocks."""

    session_id: str


@dataclass(frozen=True)
class Stop:
    """Ends a request at a stop string, after ``num_output_tokens``."""

    request: Request
    num_output_tokens: int


@dataclass(frozen=True)
class Call:
    """Calls ``work`` with the core, between two steps."""

    work: Callable[[EngineCore], Any]
    done: Future[Any]


Command = Call | Add | Cancel | Forget | Stop


class Engine:
    """A core and its thread.

    on_step: called on the engine's thread after every step, and whenever it runs out of work.
    """

    def __init__(
        self,
        core: EngineCore,
        *,
        max_concurrent_requests: int = 512,
        session_timeout_s: float = 300.0,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self._core, self._on_step = core, on_step
        self._max_concurrent, self._session_timeout_s = max_concurrent_requests, session_timeout_s
        self._wake = threading.Condition()
        self._commands: deque[Command] = deque()
        self._stopping = False
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._loop, name="atoll-engine", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends every request with NotReady, then the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._core.close()

    def watch(self, on_failed: Callable[[RankLost], None]) -> None:
        """See ``EngineCore.watch``."""
        self._core.watch(on_failed)

    def give_up(self, reason: str) -> None:
        """Takes no more requests. The thread, which may be inside a step, is not waited for."""
        with self._wake:
            self._failure = self._failure or reason
            self._stopping = True
            self._wake.notify()

    @property
    def failure(self) -> str | None:
        """Why the engine has ended and takes no more requests; None: it is running."""
        return self._failure

    def submit(self, request: Request) -> None:
        """Queues a request; all else goes to its sink.

        Raises:
            Overloaded: there are ``max_concurrent_requests`` already.
            NotReady: the engine is stopping, or has failed.
        """
        with self._wake:
            if self._stopping:
                raise self._not_ready()
            held = self._core.num_held + sum(isinstance(c, Add) for c in self._commands)
            if held >= self._max_concurrent:
                raise Overloaded(
                    f"{held} requests are held; max_concurrent_requests is {self._max_concurrent}"
                )
            self._commands.append(Add(request))
            self._wake.notify()

    def cancel(self, request_id: str) -> None:
        """Ends a request with ``Cancelled`` before the next step, if it has not ended."""
        self._send(Cancel(request_id))

    def finish(self, request: Request, num_output_tokens: int) -> None:
        """Ends a request before the next step; see ``EngineCore.finish``."""
        self._send(Stop(request, num_output_tokens))

    def forget_session(self, session_id: str) -> None:
        """Frees what an idle conversation keeps in the cache."""
        self._send(Forget(session_id))

    def call(self, work: Callable[[EngineCore], T]) -> T:
        """Calls ``work`` on the engine's thread, between two steps; returns what it returns.

        Raises:
            NotReady: the engine is stopping, or has failed. Whatever ``work`` raises.
        """
        with self._wake:
            if self._stopping:
                raise self._not_ready()
        return self.tell(work).result()

    def tell(self, work: Callable[[EngineCore], T]) -> Future[T]:
        """As ``call``, without waiting."""
        done: Future[T] = Future()
        self._send(Call(work, done))
        return done

    def stats(self) -> EngineStats:
        """May be called from any thread; the numbers may come from different steps."""
        return self._core.stats()

    def adapters_in_use(self) -> dict[str, list[str]]:
        """Names of the adapters of running and of waiting requests; any thread may call."""
        return adapters_in_use(self._core.scheduler)

    def _send(self, command: Command) -> None:
        with self._wake:
            self._commands.append(command)
            self._wake.notify()

    def _add(self, request: Request) -> None:
        """Adds a request to the core; an error goes to its sink."""
        try:
            self._core.add(request)
        except Exception as error:
            logger.exception("request %s could not be taken", request.request_id)
            request.sink.on_failed(_as_atoll(error))

    def _not_ready(self) -> NotReady:
        if self._failure is None:
            return NotReady("the model is shutting down")
        return NotReady(f"the model is not healthy, it has to be loaded again: {self._failure}")

    def _loop(self) -> None:
        num_failures = 0
        try:
            self._core.enter_thread()
            while self._has_more() and num_failures < _MAX_FAILURES:
                num_failures = 0 if self._turn() else num_failures + 1
        except RankLost as error:  # it is logged where it is noticed
            self.give_up(str(error))
        except BaseException as error:
            logger.exception("the engine's thread ends")
            self.give_up(f"its engine ended with {type(error).__name__}: {error}")
        if num_failures:
            self._failure = f"its engine failed {num_failures} times in a row"
        self._end()

    def _has_more(self) -> bool:
        """Sleeps while there is nothing to do. False: stop."""
        with self._wake:
            if not (self._core.is_busy or self._commands or self._stopping):
                self._wake.wait(_IDLE_S)
            return not self._stopping

    def _turn(self) -> bool:
        """Runs the queued commands and a step. False: something other than a request failed.

        A step recovers from its own failures. A failure here ends every request, since its cause
        is unknown, and the thread goes on.
        """
        is_well = self._run_commands()
        try:
            self._core.scheduler.session_cache.expire(self._session_timeout_s)
            if self._core.is_busy:
                self._core.step()
        except RankLost:
            raise
        except Exception as error:
            logger.exception("the engine could not recover; every request ends")
            self._core.restart(_as_atoll(error))
            is_well = False
        return self._tell() and is_well

    def _run_commands(self) -> bool:
        is_well = True
        while True:
            with self._wake:
                if not self._commands:
                    return is_well
                command = self._commands.popleft()
            try:
                self._run(command)
            except Exception:
                logger.exception("the engine could not do what it was asked; it goes on")
                is_well = False

    def _run(self, command: Command) -> None:
        match command:
            case Call(work, done):
                try:
                    done.set_result(work(self._core))
                except Exception as error:
                    done.set_exception(error)
            case Add(request):
                self._add(request)
            case Cancel(request_id):
                self._core.cancel(request_id, Cancelled("the request was cancelled"))
            case Stop(request, num_output_tokens):
                self._core.finish(request, num_output_tokens)
            case Forget(session_id):
                self._core.scheduler.session_cache.forget(session_id)

    def _tell(self) -> bool:
        try:
            self._on_step()
        except Exception:
            logger.exception("a step could not be reported; the engine goes on")
            return False
        return True

    def _end(self) -> None:
        """Ends every request, including those in the queue."""
        with self._wake:
            self._stopping = True
        self._run_commands()
        self._core.cancel_all(self._not_ready())
        self._tell()


def _as_atoll(error: Exception) -> AtollError:
    if isinstance(error, AtollError):
        return error
    return GenerationError(f"{type(error).__name__}: {error}")
