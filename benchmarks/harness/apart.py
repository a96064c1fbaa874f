"""A peer in a process of its own, so that no other contestant's threads slow it down.

libgomp counts the threads of every OpenMP pool of its process; once they are more than the cores,
workers no longer wait awake, and each parallel region pays for waking them. And where they do, they
keep cores from the threads of others that have no OpenMP. A peer is built once,
sleeps on a pipe between its calls, and ends with its parent. Its calls are timed where they run.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from harness.measure import Contestant, Work

Answer = TypeVar("Answer")
_LEAVE_SECONDS = 10


@runtime_checkable
class Timed(Protocol):
    """A function that times its own calls, where they run."""

    def timed(self, calls: int, *arguments: Any) -> tuple[Any, float]: ...


class Apart(Generic[Answer]):
    """The function that ``build(*arguments)`` returns, in a process that the context starts.

    ``build`` is a function of a module; what goes in and out of a call is pickled.
    """

    def __init__(
        self, name: str, build: Callable[..., Callable[..., Answer]], *arguments: Any
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._pipe, self._theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self._theirs, build, arguments), daemon=True
        )

    def __enter__(self) -> Apart[Answer]:
        """Returns once it is built."""
        # Atoll sets it for itself (``atoll/__init__.py``); a peer gets its library's default.
        spin = os.environ.get("GOMP_SPINCOUNT")
        if not self._name.startswith("Atoll"):
            os.environ.pop("GOMP_SPINCOUNT", None)
        self._process.start()
        if spin is not None:
            os.environ["GOMP_SPINCOUNT"] = spin
        # Only the child may hold its end, or its death would not be seen.
        self._theirs.close()
        self._received()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(_LEAVE_SECONDS)
        self._process.kill()
        self._process.join()

    def __call__(self, *arguments: Any) -> Answer:
        """Raises RuntimeError with the text of what went wrong there."""
        return self.timed(1, *arguments)[0]

    def timed(self, calls: int, *arguments: Any) -> tuple[Answer, float]:
        """As the function ``timed``, by the child's clock: the pipe takes none of its time."""
        with suppress(BrokenPipeError):  # what it left behind says more
            self._pipe.send((calls, arguments))
        found: tuple[Answer, float] = self._received()
        return found

    def _received(self) -> Any:
        try:
            answer, error = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            status = self._process.exitcode
            raise RuntimeError(f"{self._name}: its process ended with status {status}") from None
        if error is not None:
            raise RuntimeError(f"{self._name}, in its process: {error}")
        return answer


def timed(calls: int, function: Callable[..., Answer], *arguments: Any) -> tuple[Answer, float]:
    """The answer of the last of ``calls`` calls, and the seconds of all of them."""
    if isinstance(function, Timed):
        found: tuple[Answer, float] = function.timed(calls, *arguments)
        return found
    start = time.perf_counter()
    for _ in range(calls):
        answer = function(*arguments)
    return answer, time.perf_counter() - start


def contestant(
    units: float, function: Callable[..., object], *arguments: Any, calls: int = 1
) -> Contestant:
    """``units`` are what the calls do together."""
    return lambda: Work(units, timed(calls, function, *arguments)[1])


@contextmanager
def started(
    packages: Mapping[str, str], build: Callable[..., Callable[..., Answer]], *arguments: Any
) -> Iterator[dict[str, Apart[Answer]]]:
    """Every peer, by its name, that ``build(name, *arguments)`` makes and whose package is there.

    One after the other, so that one at a time holds what conversion and loading take.
    """
    with ExitStack() as stack:
        peers = {}
        for name, package in packages.items():
            if importlib.util.find_spec(package) is None:
                print(f"  {name}: {package} is not installed", flush=True)
                continue
            peers[name] = stack.enter_context(Apart(name, build, name, *arguments))
        yield peers


def _serve(
    pipe: Connection, build: Callable[..., Callable[..., Any]], arguments: tuple[Any, ...]
) -> None:
    """The child: answers until the other end of the pipe is closed."""
    # Ctrl-C reaches the whole group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    function, error = _attempt(build, *arguments)
    with suppress(EOFError, ConnectionError):
        pipe.send((None, error))
        while error is None:
            calls, given = pipe.recv()
            pipe.send(_attempt(timed, calls, function, *given))


def _attempt(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str | None]:
    """What it returns, or the text of what it raises."""
    try:
        return function(*arguments), None
    except Exception:
        return None, traceback.format_exc()
