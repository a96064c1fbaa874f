"""F6 and F7: signals for the launcher, under load and while it starts; how models' processes end.

F8: the gateway's memory, with readers who never read.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from fault_repository import record_exit_codes
from gateways import GENERATOR
from long_requests import LONG, running, wait_until
from serving import ATOLL, Serving, serving

from atoll.launcher import ServerProcess, free_ports
from failing.case import CHAT, EMBED, Case, Crowd, post, told
from failing.processes import end_of, of_clients

_GRACE_S = 15
_READERS = 500


def stopping() -> Iterator[Case]:
    """F6, each with a server of its own."""
    yield _under_load([signal.SIGTERM])
    yield _under_load([signal.SIGINT])
    yield _under_load([signal.SIGTERM, signal.SIGTERM])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        for has_begun in (False, True):
            yield _while_starting(number, has_begun)


def _short(server: Serving) -> str:
    answer = post(server, CHAT[0], {**CHAT[1], "max_tokens": 24})
    return f"{answer.status_code} answered" if answer.status_code == 200 else answer.text


def _under_load(numbers: list[signal.Signals]) -> Case:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "server.log"
        with serving(
            folder, f"--log-file={log}", f"--exit-timeout={_GRACE_S}", ATOLL_NUM_THREADS="1",
            ATOLL_GATEWAY_BATCH_FOLDER=str(folder / "batches"), XDG_RUNTIME_DIR=name,
        ) as server:  # fmt: skip
            batch = _batch(server)
            crowd = Crowd([*of_clients(server)[:20], *[("short", lambda: _short(server))] * 6])
            wait_until(lambda: running(server) >= 26, lambda: f"{running(server)} run")
            family = psutil.Process(server.process.pid).children(recursive=True)
            crowd.fault()
            for number in numbers:
                server.process.send_signal(number)
                time.sleep(1.0)
            code = server.process.wait(timeout=90)
            seconds = time.monotonic() - crowd.began
            crowd.wait(10)
            alive = [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
            shown = server.log.read_text()
        kept = _lines_of(folder / "batches", batch)
        said = log.read_text()
    bad = [
        text
        for text in ("Exit timeout expired", "Signal (11)", "Signal (6)", "Traceback",
                     "graceful shutdown exceeded")
        if text in said or text in shown
    ]  # fmt: skip
    short = [one for one in crowd.ends if one.kind == "short"]
    num_short = sum(one.end.startswith("200") for one in short)
    names = ", then ".join(number.name for number in numbers)
    is_hurried = len(numbers) > 1
    right = code == 0 and not bad and not alive and (is_hurried or num_short == len(short))
    return Case(
        "F6", f"{names} of the launcher, {crowd.num} requests and a batch in flight",
        f"{num_short} of {len(short)} short chats answered; all: {crowd.said(end_of)}; exit code "
        f"{code} after {seconds:.1f} s (grace {_GRACE_S} s); {len(alive)} processes left; batch "
        f"{kept}; in the log: {', '.join(bad) or 'no crash, no exit timeout'}",
        seconds, right and len(crowd.ends) == crowd.num,
    )  # fmt: skip


def _batch(server: Serving) -> str:
    line = {"method": "POST", "url": CHAT[0], "body": {**CHAT[1], "max_tokens": 40}}
    text = "\n".join(json.dumps({"custom_id": str(at), **line}) for at in range(200)).encode()
    with httpx.Client(base_url=server.url(), timeout=60) as client:
        file = client.post("/v1/files", data={"purpose": "batch"},
                           files={"file": ("lines.jsonl", text)}).json()["id"]  # fmt: skip
        return str(client.post("/v1/batches", json={
            "input_file_id": file, "endpoint": CHAT[0], "completion_window": "24h",
        }).json()["id"])  # fmt: skip


def _lines_of(folder: Path, batch: str) -> str:
    """What is on disk of it."""
    found = [path for path in folder.rglob("*") if batch in str(path) and path.is_file()]
    return "is kept, to go on" if found else "is gone"


def _while_starting(number: signal.Signals, has_begun: bool) -> Case:
    """has_begun: tritonserver is there; otherwise Python may still import the command."""
    with tempfile.TemporaryDirectory() as name:
        names = ("http-port", "grpc-port", "metrics-port", "port", "gateway-grpc-port")
        ports = [f"--{one}={port}" for one, port in zip(names, free_ports(5), strict=True)]
        process = subprocess.Popen(
            [str(ATOLL), "serve", *ports], cwd=name, stderr=subprocess.PIPE, text=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": name, "XDG_RUNTIME_DIR": name, "ATOLL_NUM_THREADS": "1"},
        )  # fmt: skip
        own = psutil.Process(process.pid)
        time.sleep(0.3)
        if has_begun:
            wait_until(lambda: len(own.children()) > 1, lambda: "nothing starts")
        family = own.children(recursive=True)
        began = time.monotonic()
        process.send_signal(number)
        _, text = process.communicate(timeout=90)
        seconds = time.monotonic() - began
        alive = [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        left = [path.name for path in Path(name).glob("atoll-*")]
    code = process.returncode
    # Before the command has set its handlers, Python's own apply.
    allowed = {0} if has_begun else {0, -number}
    when = "once tritonserver starts" if has_begun else "0.3 s after the start"
    return Case(
        "F6", f"{number.name} {when}, {len(family)} processes below",
        f"exit code {code} after {seconds:.1f} s; {len(alive)} processes and {len(left)} folders "
        f"left{'; a traceback' if 'Traceback' in text else ''}",
        seconds,
        code in allowed and not alive and not left and (not has_begun or "Traceback" not in text),
    )  # fmt: skip


def ends_of_stubs() -> Iterator[Case]:
    """F7: the exit codes of a server's models, idle and while they work."""
    for is_busy in (False, True):
        with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
            codes = Path(name) / "codes"
            record_exit_codes(patch, codes)
            with ServerProcess.embedded(exit_timeout_s=3) as server:
                codes.unlink(missing_ok=True)  # Triton asks the stub about itself first
                streams = _streams(server) if is_busy else []
                began = time.monotonic()
            seconds = time.monotonic() - began
            for stream in streams:
                stream.close()
            found = Counter(codes.read_text().split() if codes.is_file() else [])
            missing = len(server.models) - found.total()
            crashed = "Signal (11)" in server.log_tail(200)
        yield Case(
            "F7", f"the end of a server's models, {'with work' if is_busy else 'idle'}",
            f"exit codes: {told(found)}{f', {missing} killed without one' if missing else ''}"
            f"{', a crash' if crashed else ''}", seconds,
            set(found) == {"0"} and not missing and not crashed,
        )  # fmt: skip


def _streams(server: ServerProcess) -> list[socket.socket]:
    """Answers that have begun."""
    raw = json.dumps({"text_input": "Hi", "stream": True, "parameters": LONG}).encode()
    path = f"/v2/models/{GENERATOR}/generate_stream"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n".encode()
    found = []
    for _ in range(8):
        found.append(socket.create_connection(("127.0.0.1", server.options.http_port)))
        found[-1].sendall(head + raw)
        found[-1].recv(1)
    return found


def slow_readers(server: Serving) -> Iterator[Case]:
    """F8: only whether buffers are bounded; how others are served is measured elsewhere."""
    (gateway,) = [
        child
        for child in psutil.Process(server.process.pid).children()
        if "atoll_client.gateway.main" in " ".join(child.cmdline())
    ]
    body = {**CHAT[1], "max_tokens": 500, "ignore_eos": True, "stream": True, "logprobs": True,
            "top_logprobs": 20}  # fmt: skip
    raw = json.dumps(body).encode()
    head = f"POST {CHAT[0]} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n".encode()
    before, began, most, slow = gateway.memory_info().rss, time.monotonic(), 0, []
    try:
        for _ in range(_READERS):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.ports["port"]))
            connection.sendall(head + raw)
            slow.append(connection)
        statuses = Counter[str]()
        while time.monotonic() - began < 45:
            most = max(most, gateway.memory_info().rss)
            statuses[str(post(server, *EMBED).status_code)] += 1
            time.sleep(0.5)
    finally:
        for connection in slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
    wait_until(lambda: running(server) == 0, lambda: f"{running(server)} still run")
    grown = (most - before) / 2**20
    # An answer is 500 events of 2 KB.
    yield Case(
        "F8", f"{_READERS} streams whose readers never read, 500 tokens with 20 alternatives each",
        f"the gateway's memory grew by {grown:.0f} MB at most ({grown / _READERS:.2f} a stream); "
        f"embeddings meanwhile: {told(statuses)}; nothing runs on after they left",
        time.monotonic() - began, grown < 250 and set(statuses) == {"200"},
    )  # fmt: skip
