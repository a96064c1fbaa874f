"""Memory of a server with several small encoders, process by process.

``python benchmarks/serving/memory.py --models 10`` serves copies of all-MiniLM-L6-v2, each a model
of its own in a process of its own, sends each a request, and prints each process's proportional
share (what it shares with others counts once) and what of it no other process or file holds.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

from atoll.launcher import free_ports
from atoll.weights.embedded import EMBEDDED

_STARTED_S = 600


def shares(pid: int) -> tuple[float, float]:
    """(proportional share, anonymous) of a process, in MB of 2**20 bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(size) / 1024 for name, size, _ in (line.split() for line in lines)}
    return sizes["Pss:"], sizes["Anonymous:"]


def report(server: psutil.Process) -> str:
    """A table of the server's processes, as Markdown."""
    rows, total = ["| process | share, MB | own, MB |", "|-|-|-|"], 0.0
    for process in [server, *server.children(recursive=True)]:
        share, own = shares(process.pid)
        total += share
        words = " ".join(Path(word).name for word in process.cmdline()[:2])
        rows.append(f"| {words} | {share:.0f} | {own:.0f} |")
    return "\n".join([*rows, f"| all | {total:.0f} | |"])


def main() -> None:
    """Raises SystemExit: the models are not ready in time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=10, help="copies of all-MiniLM-L6-v2")
    count = parser.parse_args().models
    source = next(model.folder() for model in EMBEDDED.values() if "MiniLM" in model.model_id)
    assert source is not None, "the package of all-MiniLM-L6-v2 is not installed"
    port, *triton = free_ports(4)
    flags = [f"--port={port}"]
    names = ("http", "grpc", "metrics")
    flags += [f"--{name}-port={number}" for name, number in zip(names, triton, strict=True)]
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(count):
            folder = Path(scratch) / f"encoder-{number}"
            shutil.copytree(source, folder)
            flags += ["--model-id", str(folder)]
        atoll = Path(sys.executable).with_name("atoll")
        server = subprocess.Popen([atoll, "serve", *flags], stdout=subprocess.DEVNULL)
        try:
            _wait(f"http://127.0.0.1:{port}/health", server)
            print(report(psutil.Process(server.pid)))
        finally:
            server.terminate()
            server.wait(60)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    """Until all models have answered the launcher's first request, and the gateway is up."""
    deadline = time.monotonic() + _STARTED_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise SystemExit("the server is not ready")


if __name__ == "__main__":
    main()
