"""A peer in its own process, so that the threads of other contestants do not slow it down.

libgomp counts the threads of all OpenMP pools of its process; once there are more than cores, idle
workers no longer spin, and each parallel region pays for waking them. Workers that do spin take
cores from threads that do not use OpenMP. A peer is built once, sleeps on a pipe between its calls,
and ends with its parent. Its calls are timed in its own process.
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
    """A function that times its own calls, for example in another process."""

    def timed(self, calls: int, *arguments: Any) -> tuple[Any, float]: ...


class Apart(Generic[Answer]):
    """The function that ``build(*arguments)`` returns, in a process that the context starts.

    ``build`` is a module's function; arguments and results of calls are pickled.
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
        """Returns once the function is built."""
        # Atoll sets this variable itself (``atoll/__init__.py``); a peer gets libgomp's default.
        spin = os.environ.get("GOMP_SPINCOUNT")
        if not self._name.startswith("Atoll"):
            os.environ.pop("GOMP_SPINCOUNT", None)
        self._process.start()
        if spin is not None:
            os.environ["GOMP_SPINCOUNT"] = spin
        # If this process kept the child's end open, the end of the child would go unnoticed.
        self._theirs.close()
        self._received()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(_LEAVE_SECONDS)
        self._process.kill()
        self._process.join()

    def __call__(self, *arguments: Any) -> Answer:
        """Raises RuntimeError: the call failed in the process; has its traceback."""
        return self.timed(1, *arguments)[0]

    def timed(self, calls: int, *arguments: Any) -> tuple[Answer, float]:
        """Like the function ``timed``, by the child's clock, so that the pipe is not included."""
        with suppress(BrokenPipeError):  # its exit status, or its last answer, says more
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
    """The result of the last of ``calls`` calls, and the seconds that all of them took."""
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
    """A contestant that calls a function; ``units``: of all its calls together."""
    return lambda: Work(units, timed(calls, function, *arguments)[1])


@contextmanager
def started(
    packages: Mapping[str, str], build: Callable[..., Callable[..., Answer]], *arguments: Any
) -> Iterator[dict[str, Apart[Answer]]]:
    """The peers that ``build(name, *arguments)`` makes, by name, if their packages are installed.

    They are started one after the other, since converting and loading takes memory.
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
    """Runs in the child: answers until the other end of the pipe is closed."""
    # Ctrl-C reaches the whole process group; the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    function, error = _attempt(build, *arguments)
    with suppress(EOFError, ConnectionError):
        pipe.send((None, error))
        while error is None:
            calls, given = pipe.recv()
            pipe.send(_attempt(timed, calls, function, *given))


def _attempt(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str | None]:
    """The function's result, or the traceback of its error."""
    try:
        return function(*arguments), None
    except Exception:
        return None, traceback.format_exc()
