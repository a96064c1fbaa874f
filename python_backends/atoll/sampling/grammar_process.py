"""Compiles a large grammar in a process of its own first, which ends when nobody waits any more.

xgrammar's compiler cannot be interrupted: on a thread, it may go on for minutes after the request
has ended. What the process has compiled, a thread then compiles in about the same time again, since
a compiled grammar as text is larger, and takes longer to write and to read than to compile.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from atoll.errors import Cancelled, ValidationError

_ASKED_EVERY_S = 0.1
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def try_apart(grammar: str, info: Any, is_over: Callable[[], bool]) -> None:
    """Returns once the grammar could be compiled. info: xgrammar's, of the vocabulary.

    Raises:
        ValidationError: the grammar cannot be compiled. Cancelled: ``is_over`` has become true.
    """
    asked = json.dumps({"grammar": grammar, "info": info.serialize_json()}).encode()
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as written:
        given.write(asked)
        given.seek(0)
        command = [sys.executable, "-m", __name__]
        process = subprocess.Popen(command, env=environment, stdin=given, stdout=written)
        try:
            _wait(process, is_over)
        finally:
            process.kill()
            process.wait()
        written.seek(0)
        answer = written.read()
    if answer:
        raise ValidationError(answer.decode(errors="replace"))
    if process.returncode:
        raise ValidationError(f"its compiler has ended with status {process.returncode}")


def _wait(process: subprocess.Popen[bytes], is_over: Callable[[], bool]) -> None:
    while not is_over():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_ASKED_EVERY_S)
            return
    raise Cancelled("nobody waits for this grammar any more")


def main() -> None:
    """The process: it also ends with the thread that has started it, which waits for it."""
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    import xgrammar

    asked = json.load(sys.stdin)
    info = xgrammar.TokenizerInfo.deserialize_json(asked["info"])
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
    try:
        compiler.compile_grammar(asked["grammar"])
    except Exception as error:
        print(error)


if __name__ == "__main__":
    main()
