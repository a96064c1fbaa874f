"""A model on two ranks in a real server: many clients, and everything that can end a rank.

Whatever ends, open requests are answered, nothing stays behind, and the model comes back.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from driving import save_llama
from gateways import fronted
from long_requests import wait_until
from serving import Serving, serving
from small_models import StartServer
from tiny.tokenizer import write_tokenizer

from atoll.catalogue import Entry
from atoll.launcher import ServerProcess
from atoll.launcher.stubs import find_stubs

MODEL = "tiny"
PROMPTS = ["An atoll is", "The sea is full of", "Coral", "Rings of sand and palms, and"]
LONG = 30_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    root = tmp_path_factory.mktemp("ranks")
    with serving(
        root, f"--model-id={checkpoint_at(root / MODEL)}", "--num-shard=2", "--shard-timeout-s=3",
        "--max-batch-total-tokens=200000", "--num-threads=1",
    ) as server:  # fmt: skip
        yield server
        assert answers_again(server)
        family = [*followers(server), *stubs(server)]
        server.stop(signal.SIGTERM)
        assert not any(map(is_running, family))


def checkpoint_at(folder: Path) -> Path:
    """A generator with a token for each character, whose heads two ranks can divide."""
    save_llama(folder, max_position_embeddings=2 * LONG)
    write_tokenizer(folder)
    return folder


def stubs(server: Serving) -> list[psutil.Process]:
    """Processes of the model."""
    found = find_stubs(server.tritonserver.pid)
    return [psutil.Process(stub.pid) for stub in found if stub.model == MODEL and stub.is_running()]


def followers(server: Serving) -> list[psutil.Process]:
    """Ranks other than 0."""
    found = [child for stub in stubs(server) for child in stub.children()]
    return [child for child in found if is_running(child)]


def is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.is_running()
    except psutil.NoSuchProcess:
        return False


def scratch_folders(server: Serving) -> list[Path]:
    return [*(server.log.parent / "scratch").glob("**/atoll-ranks-*")]


def body(prompt: str, count: int) -> dict[str, Any]:
    return {
        "model": MODEL, "prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True,
    }  # fmt: skip


def complete(server: Serving, prompt: str, count: int) -> str:
    answer = httpx.post(f"{server.url()}/v1/completions", json=body(prompt, count), timeout=120)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


def answers_again(server: Serving) -> bool:
    """Refusals that say when to come again are no answer."""
    for _ in range(240):
        try:
            url = f"{server.url()}/v1/completions"
            answer = httpx.post(url, json=body("An atoll is", 3), timeout=60)
            if answer.status_code == 200:
                return bool(answer.json()["choices"][0]["text"])
            assert answer.status_code in (503, 429), answer.text
        except httpx.TransportError:
            pass
        time.sleep(0.25)
    return False


def stream(server: Serving, prompt: str, count: int, leave_after: int | None = None) -> list[str]:
    """Lines of a streamed answer; the client leaves after so many."""
    lines: list[str] = []
    asked = {**body(prompt, count), "stream": True}
    with httpx.stream("POST", f"{server.url()}/v1/completions", json=asked, timeout=120) as events:
        for line in events.iter_lines():
            lines += [line] if line else []
            if leave_after is not None and len(lines) >= leave_after:
                break
    return lines


def text_of(lines: list[str]) -> str:
    assert lines[-1] == "data: [DONE]", lines[-1]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    return "".join(choice["text"] for event in events for choice in event["choices"])


def held(server: Serving) -> float:
    """Requests that the model works on, or has waiting."""
    page = httpx.get(f"{server.url('metrics-port')}/metrics").text
    names = ("atoll_requests_running", "atoll_requests_waiting")
    lines = [x for x in page.splitlines() if x.startswith(names) and f'"{MODEL}"' in x]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.mark.slow
def test_fifty_streams_of_which_some_are_left(served: Serving) -> None:
    """Every answer is what its prompt gives alone; clients that leave cost nobody anything."""
    assert len(followers(served)) == 1
    expected = {prompt: complete(served, prompt, 40) for prompt in PROMPTS}

    def ask(index: int) -> tuple[str, list[str]]:
        prompt = PROMPTS[index % len(PROMPTS)]
        if index % 3 == 0:
            return prompt, stream(served, prompt, LONG, leave_after=1 + index % 7)
        return prompt, stream(served, prompt, 40)

    with ThreadPoolExecutor(50) as pool:
        for index, (prompt, lines) in enumerate(pool.map(ask, range(50))):
            if index % 3:
                assert text_of(lines) == expected[prompt]
    wait_until(lambda: held(served) == 0, lambda: f"{held(served)} are held")
    assert complete(served, PROMPTS[0], 40) == expected[PROMPTS[0]]


def kill_follower(server: Serving) -> None:
    followers(server)[0].kill()


def stop_follower(server: Serving) -> None:
    followers(server)[0].suspend()


def kill_stub(server: Serving) -> None:
    stubs(server)[0].kill()


def kill_server(server: Serving) -> None:
    os.kill(server.tritonserver.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("end", [kill_follower, stop_follower, kill_stub, kill_server])
def test_whatever_ends_the_model_comes_back(
    served: Serving, end: Callable[[Serving], None]
) -> None:
    assert answers_again(served)
    family = [*followers(served), *stubs(served)]
    assert len(family) == 2
    ends: list[list[str]] = []

    def ask() -> None:
        try:
            ends.append(stream(served, "An atoll is", LONG))
        except httpx.TransportError as error:
            ends.append([repr(error)])

    for _ in range(6):
        threading.Thread(target=ask, daemon=True).start()
    wait_until(lambda: held(served) == 6, lambda: f"{held(served)} run; {ends}")
    end(served)
    wait_until(lambda: len(ends) == 6, lambda: f"{ends}\n{served.log.read_text()}")
    assert all("[DONE]" not in lines[-1] for lines in ends), ends
    assert answers_again(served), served.log.read_text()
    wait_until(lambda: not any(map(is_running, family)), lambda: f"{family}")
    assert len(followers(served)) == 1 and len(scratch_folders(served)) == 1


@pytest.fixture
def alone(tmp_path: Path, start_server: StartServer) -> ServerProcess:
    """A server that nothing watches, and that nobody starts again."""
    folder = checkpoint_at(tmp_path / MODEL)
    settings = {"num_shard": "2", "num_threads": "1", "max_batch_total_tokens": "4096"}
    entry = Entry(MODEL, str(folder), "generate", "llama", settings=settings)
    return start_server(entries=(entry,))


def family_of(server: ServerProcess) -> list[psutil.Process]:
    """The model's processes: rank 0, and the other one."""
    (stub,) = (psutil.Process(s.pid) for s in find_stubs(server.pid) if s.model == MODEL)
    assert len(stub.children()) == 1 and [*server.scratch.glob("atoll-ranks-*")]
    return [stub, *stub.children()]


@pytest.mark.slow
def test_a_killed_server_leaves_no_rank_without_a_launcher(alone: ServerProcess) -> None:
    """The process of a model hangs when its server is killed; followers end it, and themselves."""
    family = family_of(alone)
    os.kill(alone.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, family)), lambda: f"{family}")
    assert not [*alone.scratch.glob("atoll-ranks-*")]


@pytest.mark.slow
def test_a_probe_sees_that_a_model_is_lost_without_a_launcher(alone: ServerProcess) -> None:
    """The probe that docs/several_gpus.md names, and the gateway's /health, although the model is
    idle; the server itself goes on saying "ready"."""
    atoll = Path(sys.executable).with_name("atoll")
    asked = ["infer", MODEL, "--text", "Hello", "--max-tokens", "1", "--timeout", "20"]

    def probe() -> int:
        done = subprocess.run([atoll, *asked, f"--url={alone.grpc_url}"], capture_output=True)
        return done.returncode

    def health() -> int:
        return httpx.get(f"{front.url}/health", timeout=60).status_code

    with fronted(alone) as front:
        assert probe() == 0 and health() == 200
        stub, follower = family_of(alone)
        follower.kill()
        wait_until(lambda: not is_running(stub), lambda: f"{stub}")
        wait_until(lambda: health() == 503, lambda: f"{health()}")
        assert probe() == 1
    assert not [*alone.scratch.glob("atoll-ranks-*")]
