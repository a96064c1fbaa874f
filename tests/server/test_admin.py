"""Models are loaded, unloaded and reloaded while a real server answers other requests."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from admin_server import KEY, Administered
from small_models import wait_until
from typer.testing import CliRunner

from atoll.cli.app import app
from atoll.errors import AtollError
from atoll.launcher.admin.client import AdminClient


def numbers(last: int) -> list[str]:
    return [str(number) for number in range(last + 1)]


@pytest.mark.parametrize("kind", ["checkpoint", "entry"])
def test_what_fails_to_load_says_why_and_leaves_nothing(
    admin: Administered, tiny_classifier: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "entry":
        wanted, reason = "bad", r"model 'bad': RuntimeError: no weights here$"
    else:
        broken = tmp_path / "broken"
        broken.mkdir()
        for path in tiny_classifier.iterdir():
            (broken / path.name).write_bytes(
                path.read_bytes()[: -1 if "safe" in path.name else None]
            )
        wanted, reason = str(broken), r"model 'broken': WeightError: .*model.safetensors"
    with pytest.raises(AtollError, match=reason):
        admin.do("models/load", model=wanted)
    name = Path(wanted).name
    assert not admin.processes(name) and admin.models().get(name, {}).get("state") != "ready"
    if kind == "checkpoint":
        assert name not in admin.models()
        # Triton itself would not be ready any more, with a model whose last load has failed.
        ready = f"{admin.server.url('http-port')}/v2/health/ready"
        assert wait_until(lambda: httpx.get(ready, timeout=60).status_code == 200, 60)
        scratch = Path(admin.client.models()["server"]["log"]).parent
        assert not (scratch / "models" / name).exists()


def test_a_stream_goes_on_while_others_come_and_go(
    admin: Administered, tiny_classifier: Path
) -> None:
    counting = admin.begin("count", 100_000)
    events = admin.do("models/load", model=str(tiny_classifier), name="a/Tiny-Classify")
    assert "served as 'tiny-classify', not as 'a/Tiny-Classify'" in events[1]["note"]
    phases = [event.get("phase") for event in events]
    assert phases[0] == "fetching" and phases[-3:] == ["warming up", "ready", None]
    assert "starting" in phases and events[-1] == {"models": ["tiny-classify"]}
    answer = admin.ask("/tiny-classify/predict", {"inputs": "I like you."})
    assert answer.status_code == 200 and len(answer.json()) == 3, answer.text
    row = admin.models()["tiny-classify"]
    assert (row["state"], row["kind"], row["device"]) == ("ready", "classify", "cpu")
    assert row["memory_bytes"] > 1e7 and len(row["processes"]) == 1
    assert admin.do("models/unload", model="tiny-classify")[-1] == {"models": ["tiny-classify"]}
    # While it is being unloaded, it may be loading.
    predict = {"inputs": "x"}
    gone = wait_until(lambda: admin.ask("/tiny-classify/predict", predict).status_code == 404, 60)
    assert gone
    assert admin.models()["tiny-classify"]["state"] == "unloaded"
    num_by_then = len(counting.numbers)
    assert wait_until(lambda: len(counting.numbers) > num_by_then, 60)
    assert counting.numbers == numbers(len(counting.numbers) - 1) and not counting.error


def test_an_unloaded_model_is_not_one_that_has_died(admin: Administered) -> None:
    admin.do("models/load", model="other")
    admin.do("models/unload", model="other")
    time.sleep(1.5)  # three looks of the watchdog
    assert not admin.processes("other")
    assert "reloading it" not in admin.server.log.read_text()


def test_requests_are_answered_before_a_model_is_unloaded(admin: Administered) -> None:
    admin.do("models/load", model="other")
    counting = admin.begin("other", 40)
    admin.do("models/unload", model="other", grace_s=30)
    assert counting.finish() == numbers(40)
    admin.do("models/load", model="other")
    endless = admin.begin("other", 100_000)
    admin.do("models/unload", model="other", grace_s=0.2)
    assert not admin.processes("other") and endless.numbers[:2] == ["0", "1"]


def test_a_process_that_is_killed_while_it_loads(admin: Administered) -> None:
    wait = Path(admin.server.log).parent / "repository" / "wait"
    wait.touch()
    ends: list[str] = []

    def load() -> None:
        try:
            admin.do("models/load", model="slow")
        except AtollError as error:
            ends.append(str(error))

    thread = threading.Thread(target=load)
    thread.start()
    assert wait_until(lambda: bool(admin.processes("slow")), 60)
    assert admin.models()["slow"]["state"] == "loading"
    os.kill(admin.processes("slow")[0], signal.SIGKILL)
    thread.join(timeout=60)
    assert ends and "slow" in ends[0] and "not healthy" in ends[0]
    assert admin.begin("count", 3).finish() == numbers(3)
    wait.unlink()
    assert admin.do("models/load", model="slow")[-1] == {"models": ["slow"]}


def test_loads_at_once(admin: Administered) -> None:
    """Different models load beside each other, and one model loads once."""
    admin.do("models/unload", model="slow")
    wait = Path(admin.server.log).parent / "repository" / "wait"
    wait.touch()
    found: list[Any] = []

    def load(name: str) -> None:
        with AdminClient(admin.client.address) as client:
            found.append([*client.events("models/load", {"model": name})][-1])

    threads = [threading.Thread(target=load, args=("slow",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: bool(admin.processes("slow")), 60)
    load("other")
    assert found == [{"models": ["other"]}]
    assert len(admin.processes("slow")) == 1
    wait.unlink()
    for thread in threads:
        thread.join(timeout=60)
    assert found[1:] == [{"models": ["slow"]}] * 2 and len(admin.processes("slow")) == 1
    assert {n for n, row in admin.models().items() if row["state"] == "ready"} >= {"slow", "other"}


def test_a_reload_interrupts_nothing(admin: Administered, tiny_classifier: Path) -> None:
    admin.do("models/load", model=str(tiny_classifier))
    statuses: list[int] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            body = {"inputs": "I like you."}
            statuses.append(admin.ask("/tiny-classify/predict", body).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    counting = admin.begin("count", 100)
    before = admin.processes("tiny-classify")
    admin.do("models/reload", model="tiny-classify", settings={"max_batch_requests": "7"})
    is_over.set()
    thread.join(timeout=60)
    assert set(statuses) == {200} and len(statuses) > 3
    assert wait_until(lambda: not set(before) & set(admin.processes("tiny-classify")), 60)
    facts = httpx.get(f"{admin.server.url()}/tiny-classify/info", timeout=60).json()
    assert facts["max_batch_requests"] == 7
    with pytest.raises(AtollError, match="max_batch_requests is 'x'"):
        admin.do("models/reload", model="tiny-classify", settings={"max_batch_requests": "x"})
    weights = tiny_classifier / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    try:
        with pytest.raises(AtollError, match=r"WeightError: .*model\.safetensors"):
            admin.do("models/reload", model="tiny-classify")
    finally:
        weights.write_bytes(whole)
    assert admin.ask("/tiny-classify/predict", {"inputs": "x"}).status_code == 200
    assert counting.finish() == numbers(100)


def test_what_is_refused(admin: Administered, tiny_classifier: Path) -> None:
    for operation, body, reason in (
        ("models/load", {"model": "no-such-model-here"}, "no-such-model-here"),
        ("models/load", {"model": "/no/folder"}, "there is no such folder"),
        ("models/load", {"model": str(tiny_classifier), "settings": {"nonsense": "1"}}, "nonsense"),
        (
            "models/load",
            {"model": str(tiny_classifier), "settings": {"max_beams": "1"}},
            "max_beams",
        ),
        ("models/load", {"model": str(tiny_classifier), "name": "count"}, "taken"),
        ("models/load", {"modell": "x"}, "model"),
        ("models/load", {"model": "x" * 300}, r"model: .* at most 255"),
        ("adapters/load", {"lora_name": "a", "lora_path": "x" * 400}, "lora_path: .* at most 255"),
        ("adapters/load", {"lora_name": "a", "lora_path": "/x\0"}, "lora_path: .* NUL"),
        ("models/unload", {"model": "nobody"}, "not loaded"),
        ("models/unload", {"model": "count", "grace_s": -1}, "grace_s"),
        ("models/reload", {"model": "count", "settings": {"dtype": "int8"}}, "config.pbtxt"),
    ):
        with pytest.raises(AtollError, match=reason):
            admin.do(operation, **body)


def test_keys(admin: Administered, tmp_path: Path) -> None:
    """Everybody who comes over the network needs the key, and no API key stands for it."""
    path = Path(admin.client.address)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for url in (admin.server.url(), f"http://127.0.0.1:{admin.port}"):
        wrong = ("", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}0", "Bearer \xff\xfe")
        for key in wrong:
            headers = [(b"authorization", key.encode("latin-1"))] if key else []
            for method, route in (("GET", "models"), ("POST", "models/unload"), ("GET", "logs")):
                answer = httpx.request(
                    method, f"{url}/admin/{route}", headers=headers, timeout=60,
                    json={"model": "count"} if method == "POST" else None,
                )  # fmt: skip
                assert answer.status_code == 401 and "key" in answer.json()["error"]
        key_file = tmp_path / "key"
        key_file.write_text(KEY)
        key_file.chmod(0o600)
        with AdminClient(url, key_file) as client:
            assert {row["name"] for row in client.models()["models"]} >= {"count"}
            events = [*client.events("models/load", {"model": "count"})]
            assert [e.get("phase") for e in events] == ["ready", None]
            with pytest.raises(AtollError, match=r"nobody.*not loaded"):
                [*client.events("models/unload", {"model": "nobody"})]
        plain = {"authorization": f"Bearer {KEY}"}
        answer = httpx.post(
            f"{url}/admin/models/load", json={"model": "count"}, headers=plain, timeout=60
        )
        assert answer.status_code == 200 and answer.json() == {"models": ["count"]}
        unknown = httpx.get(f"{url}/admin/logs?x=1", headers=plain, timeout=60)
        assert "no parameter of /admin/logs" in unknown.json()["error"]
        wrong = httpx.post(f"{url}/admin/models/load", json={}, headers=plain, timeout=60)
        assert wrong.status_code == 422 and wrong.json()["error"].startswith("model")
    assert admin.begin("count", 3).finish() == numbers(3)


def test_the_commands(admin: Administered) -> None:
    runner = CliRunner(env={"XDG_RUNTIME_DIR": str(admin.runtime)})
    shown = runner.invoke(app, ["ps"])
    assert shown.exit_code == 0 and "count" in shown.output and admin.server.url() in shown.output
    (server,) = json.loads(runner.invoke(app, ["ps", "--json"]).stdout)
    assert server["server"]["id"] in shown.output
    named = ["--admin", server["server"]["id"]]
    assert runner.invoke(app, ["load", "other", *named]).exit_code == 0
    done = runner.invoke(app, ["unload", "other", "--grace", "5", "--json"])
    assert json.loads(done.stdout) == {"models": ["other"]}
    log = runner.invoke(app, ["logs", "-n", "1000", "--model", "count"]).output
    assert log and all("count" in line for line in log.splitlines())
    whole = runner.invoke(app, ["logs", "-n", "100000"]).output
    assert KEY not in whole and 'process="gateway"' in whole
    nobody = runner.invoke(app, ["logs", "--model", "nosuch"]).exception
    assert "no line names; the models: bad, count" in str(nobody)
    for grace in ("nan", "-1", "inf"):
        refused = runner.invoke(app, ["unload", "count", f"--grace={grace}"])
        assert f"--grace is {grace}" in str(refused.exception)
    failed = runner.invoke(app, ["unload", "other"])
    assert isinstance(failed.exception, AtollError)


def test_a_server_that_ends_comes_back_with_what_was_loaded(admin: Administered) -> None:
    """Last, since it takes all models with it."""
    admin.do("models/load", model="other")
    admin.do("models/unload", model="count")
    admin.server.tritonserver.kill()
    admin.server.wait_for("ready again after")
    # The launcher's own lines, too.
    assert "atoll.serve: ready again after" in "".join(admin.client.logs(1000, "", False))
    models = admin.models()
    assert (models["other"]["state"], models["count"]["state"]) == ("ready", "unloaded")
    assert admin.do("models/load", model="count")[-1] == {"models": ["count"]}


def test_the_admin_port_says_in_json_what_is_no_route(admin: Administered) -> None:
    for method, path, status in (("GET", "nothing", 404), ("DELETE", "admin/models", 405)):
        answer = httpx.request(
            method, f"http://127.0.0.1:{admin.port}/{path}", timeout=60,
            headers={"authorization": f"Bearer {KEY}"},
        )  # fmt: skip
        assert answer.status_code == status and f"/{path}" in answer.json()["error"]
