"""F1 and F4: processes that are killed and stopped, while requests run."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import psutil
from gateways import EMBEDDER, GENERATOR
from long_requests import chat, generate, infer_stream, running, wait_until
from serving import Serving

from failing.case import CHAT, EMBED, Case, Crowd, post, process_of, told, until_answered

_SESSION = f"{GENERATOR}-session"
# Until the model answers again, on a machine that does other things, too.
_BACK_S = 60.0


def of_clients(server: Serving) -> list[tuple[str, Callable[[], str]]]:
    """42 requests: of the gateway and of Triton's ports, streamed and not."""
    calls: list[tuple[str, Callable[[], str]]] = []
    for stream in (False, True):
        calls += [("gateway", partial(chat, server, stream))] * 11
        calls += [("Triton", partial(generate, server, stream))] * 6
    calls += [("gateway", partial(infer_stream, server, "gateway-grpc-port"))] * 4
    return calls + [("Triton", partial(infer_stream, server))] * 4


def end_of(text: str) -> str:
    """The kind of an end."""
    if "shutting down" in text:
        return "error: shutting down"
    if "stops answering" in text or "silent" in text:
        return "error: silent"
    if "has ended" in text or "not healthy" in text or "lost" in text:
        return "error: its process has ended"
    if "loaded again" in text or "service_unavailable" in text:
        return "error: being loaded again"
    if text.startswith("error: RemoteProtocolError") or "UNAVAILABLE" in text:
        return "error: connection closed"
    return f"error: {text[-60:]}" if "error" in text or text.startswith("5") else "answered"


def killed(server: Serving) -> Iterator[Case]:
    """F1: the generator's process."""
    gateway_only = [one for one in of_clients(server) if one[0] == "gateway"]
    for calls in (of_clients(server), gateway_only):
        for number in (signal.SIGKILL, signal.SIGSTOP):
            yield _fault(server, calls, number)
    yield _others(server, signal.SIGKILL)
    yield _embedder(server)


def _fault(
    server: Serving, calls: list[tuple[str, Callable[[], str]]], number: signal.Signals
) -> Case:
    until_answered(server)
    server_pid = server.tritonserver.pid
    crowd = Crowd(calls)
    wait_until(lambda: running(server) == crowd.num, lambda: f"{running(server)} run")
    crowd.fault()
    os.kill(process_of(server, GENERATOR), number)
    last = crowd.wait()
    back, _ = until_answered(server)
    whole = "the server" if server.tritonserver.pid != server_pid else "the model alone"
    where = " and ".join(sorted({kind for kind, _ in calls}))
    all_ended = all(end_of(one.end) != "answered" for one in crowd.ends)
    return Case(
        "F1", f"{number.name} of a generator's process, {crowd.num} requests in flight ({where})",
        f"{crowd.said(end_of)}; the last after {last:.1f} s; {whole} was loaded again, answers "
        f"after {last + back:.1f} s",
        last + back, len(crowd.ends) == crowd.num and all_ended and back < _BACK_S,
    )  # fmt: skip


def _others(server: Serving, number: signal.Signals) -> Case:
    """The process of conversations, which asks the generator."""
    until_answered(server)
    began = time.monotonic()
    os.kill(process_of(server, _SESSION), number)
    _, meanwhile = until_answered(server)
    wait_until(lambda: bool(_running(server, _SESSION)), server.log.read_text)
    seconds = time.monotonic() - began
    return Case(
        "F1", f"{number.name} of the process of conversations",
        f"it runs again after {seconds:.1f} s; refused meanwhile of others: {told(meanwhile)}",
        seconds, not meanwhile,
    )  # fmt: skip


def _running(server: Serving, model: str) -> list[int]:
    try:
        return [process_of(server, model)]
    except StopIteration:
        return []


def _embedder(server: Serving) -> Case:
    until_answered(server)
    texts = ["a reef in the tide " * 60] * 256
    body = {"model": EMBEDDER, "input": texts}

    def ask() -> str:
        answer = post(server, "/v1/embeddings", body)
        return str(answer.status_code) if answer.status_code == 200 else f"error {answer.text}"

    crowd = Crowd([("gateway", ask)] * 12)
    time.sleep(1.0)
    crowd.fault()
    os.kill(process_of(server, EMBEDDER), signal.SIGKILL)
    last = crowd.wait()
    back, _ = until_answered(server)
    return Case(
        "F1", "SIGKILL of an embedder's process, 12 requests of 256 texts in flight",
        f"{crowd.said(end_of)}; the last after {last:.1f} s, answers after {last + back:.1f} s",
        last + back, len(crowd.ends) == crowd.num,
    )  # fmt: skip


def server_dies(server: Serving, times: int = 4) -> Iterator[Case]:
    """F4: again and again; the pauses grow."""
    until_answered(server)
    log_before = len(server.log.read_text())
    pauses, statuses, began = [], Counter[str](), time.monotonic()
    for _ in range(times):
        wait_until(server.has_server, server.log.read_text)
        until_answered(server)
        server.tritonserver.kill()
        down = time.monotonic()
        time.sleep(0.3)
        _, ends = until_answered(server)
        statuses += ends
        pauses.append(time.monotonic() - down)
    said = server.log.read_text()[log_before:]
    waits = re.findall(r"starting it again(?: in (\d+) s)?", said)
    shown = ", ".join(f"{wait or 0}" for wait in waits)
    allowed = {end for end in statuses if end.startswith("503") and "None" not in end}
    yield Case(
        "F4", f"SIGKILL of tritonserver, {times} times, each as soon as it answers",
        f"started again after pauses of {shown} s, each said in the log; answers after "
        f"{', '.join(f'{p:.0f}' for p in pauses)} s; meanwhile {told(statuses)}",
        time.monotonic() - began,
        len(waits) == times and set(statuses) == allowed and server.process.poll() is None,
    )  # fmt: skip
    yield _gateway_dies(server)


def _gateway_dies(server: Serving) -> Case:
    until_answered(server)
    (gateway,) = [
        child
        for child in psutil.Process(server.process.pid).children()
        if "atoll_client.gateway.main" in " ".join(child.cmdline())
    ]
    began = time.monotonic()
    gateway.kill()
    _, ends = until_answered(server, (EMBED, CHAT))
    seconds = time.monotonic() - began
    is_said = "gateway" in server.log.read_text() and "started again" in server.log.read_text()
    return Case(
        "F4", "SIGKILL of the gateway",
        f"answers after {seconds:.1f} s, {'said' if is_said else 'not said'} in the log; "
        f"meanwhile {told(ends)}",
        seconds, is_said and set(ends) <= {"ConnectError", "ReadError", "RemoteProtocolError"},
    )  # fmt: skip
