"""What the chaos is done to: ``atoll serve`` with three models, and the processes that it has.

All of it runs in a mount namespace of its own, if that is allowed, with small file systems of its
own for /dev/shm and for batches: both can then be filled without harm to anybody else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "support"))

import psutil
from kinds import Models
from load import Target
from serving import Serving

from atoll.launcher import free_ports
from atoll.launcher.stubs import find_stubs

SHARDED = "tiny-sharded"
MODELS = Models()
SHM = Path("/dev/shm")
_PORTS = ("port", "gateway-grpc-port", "http-port", "grpc-port", "metrics-port")
_APART = "ATOLL_CHAOS_APART"
_READY = "Ctrl-C stops everything"


def go_apart() -> None:
    """Runs this program again in a mount namespace of its own, if that is possible."""
    if _APART in os.environ or os.geteuid() != 0 or shutil.which("unshare") is None:
        return
    os.environ[_APART] = "0"
    command = ["unshare", "--mount", "--propagation", "private"]
    if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
        os.environ[_APART] = "1"
        os.execvp(command[0], [*command, sys.executable, *sys.argv])


def is_apart() -> bool:
    """Whether /dev/shm and what is mounted here belong to this program alone."""
    return os.environ.get(_APART) == "1"


def mount(folder: Path, size: str) -> None:
    """An empty file system in memory. Only if ``is_apart``."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)


class World:
    """``with``: checkpoints, ports and batches, which stay while servers come and go.

    direct: clients ask Triton's own ports, too.
    """

    def __init__(self, folder: Path, direct: bool) -> None:
        self.folder, self.batches = folder, folder / "batches"
        if is_apart():
            mount(SHM, "600m")
            mount(self.batches, "64m")
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self._started: list[subprocess.Popen[str]] = []
        _write_models(folder)
        url, ports = f"http://127.0.0.1:{self._ports['port']}", self._ports
        own = (f"127.0.0.1:{ports['grpc-port']}",) if direct else ()
        self.target = Target(
            url, (f"127.0.0.1:{ports['gateway-grpc-port']}", *own),
            f"http://127.0.0.1:{ports['http-port']}" if direct else url, MODELS,
        )  # fmt: skip

    def __enter__(self) -> World:
        return self

    def __exit__(self, *reason: object) -> None:
        """Ends what still runs."""
        for process in self._started:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=60)
        if is_apart():
            subprocess.run(["umount", "--lazy", self.batches], check=True)

    def start(self) -> Serving:
        """Returns once everything answers.

        Raises:
            RuntimeError: the command ends, or is not ready in five minutes.
        """
        log, scratch = self.folder / f"log{len(self._started)}", self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        command = [Path(sys.executable).with_name("atoll"), "serve", "--exit-timeout=5",
                   f"--repository={self.folder / 'repository'}",
                   *(f"--{name}={port}" for name, port in self._ports.items())]  # fmt: skip
        environment = {
            "TMPDIR": str(scratch), "HF_HUB_OFFLINE": "1", "ATOLL_NUM_THREADS": "1",
            "COLUMNS": "200", "ATOLL_GATEWAY_BATCH_FOLDER": str(self.batches),
        }  # fmt: skip
        with log.open("w") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, text=True, cwd=self.folder,
                env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self._started.append(process)
        deadline = time.monotonic() + 300
        while _READY not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"atoll serve is not ready:\n{log.read_text()}")
            time.sleep(0.2)
        return Serving(process, log, self._ports)


def processes(server: Serving) -> dict[str, psutil.Process]:
    """All that run now, by what they are: a stub by its model's name."""
    found = {"launcher": psutil.Process(server.process.pid)}
    with contextlib.suppress(psutil.Error):
        for child in found["launcher"].children():
            if child.status() == psutil.STATUS_ZOMBIE:
                continue
            words = " ".join(child.cmdline())
            for name in ("tritonserver", "gateway", "reaper"):
                if child.name() == name or f"{name}." in words:
                    found.setdefault(name, child)
    if "tritonserver" not in found:
        return found
    for stub in find_stubs(found["tritonserver"].pid):
        if stub.is_running():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(stub.pid)
                found[stub.model] = process
                found |= _below(process, stub.model)
    return found


def _below(stub: psutil.Process, model: str) -> dict[str, psutil.Process]:
    """Ranks other than 0, and the process that tries a grammar."""
    found = {}
    for child in stub.children():
        with contextlib.suppress(psutil.Error):
            words = child.cmdline()
            if "--rank=1" in words:
                found[f"rank 1 of {model}"] = child
            if any("grammar" in word for word in words):
                found["grammar"] = child
    return found


def zombies(server: Serving) -> list[str]:
    """Processes below the launcher that have ended and that nobody has asked about."""
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.name()}")
    return found


def _write_models(folder: Path) -> None:
    # Seconds, for torch and transformers.
    from driving import save_llama
    from tiny.tokenizer import write_tokenizer

    from atoll.catalogue import ENTRIES, entry_for, read_model
    from atoll.catalogue.render import write_repository

    checkpoint = folder / SHARDED
    save_llama(checkpoint, max_position_embeddings=512)
    write_tokenizer(checkpoint)
    settings = {"num_shard": "2", "shard_timeout_s": "5", "max_batch_total_tokens": "8192"}
    sharded = entry_for(str(checkpoint), read_model(checkpoint), name=SHARDED, settings=settings)
    whole = [entry for entry in ENTRIES if entry.name in (MODELS.embedder, MODELS.generator)]
    write_repository([*whole, sharded], folder / "repository", is_own=True)
