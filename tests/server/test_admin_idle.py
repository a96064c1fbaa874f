"""A model that nobody asks is unloaded, and loaded again by the next request for it."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest
from admin_server import Administered
from small_models import wait_until

from atoll.errors import AtollError

NUM_REQUESTS = 5


def test_an_idle_model_sleeps_until_it_is_asked(admin: Administered, tiny_classifier: Path) -> None:
    settings = {"idle_unload_s": "3"}
    admin.do("models/load", model=str(tiny_classifier), name="sleepy", settings=settings)
    predict = {"inputs": "I like you."}
    # Canaries ask it; nobody else has.
    assert wait_until(lambda: admin.models()["sleepy"]["state"] == "asleep", 60)
    with pytest.raises(AtollError, match="asleep .*: load it"):
        admin.do("models/reload", model="sleepy")
    assert admin.do("models/unload", model="sleepy")[-1] == {"models": ["sleepy"]}
    assert admin.models()["sleepy"]["state"] == "unloaded"
    assert wait_until(lambda: admin.ask("/sleepy/predict", predict).status_code == 404, 60)
    admin.do("models/load", model="sleepy")
    before = admin.ask("/sleepy/predict", predict).json()
    assert wait_until(lambda: admin.models()["sleepy"]["state"] == "asleep", 60)
    assert not admin.processes("sleepy")
    # It is one of the models, the gateway is well, and the watchdog lets it sleep.
    listed = httpx.get(f"{admin.server.url()}/v1/models", timeout=60).json()["data"]
    assert "sleepy" in {one["id"] for one in listed}
    assert httpx.get(f"{admin.server.url()}/health", timeout=60).status_code == 200
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(admin.ask("/sleepy/predict", predict))

    threads = [threading.Thread(target=ask) for _ in range(NUM_REQUESTS)]
    for thread in threads:
        thread.start()
    seen = set[int]()
    while any(thread.is_alive() for thread in threads):
        seen |= {*admin.processes("sleepy")}
        threads[0].join(timeout=0.1)
        threads = [thread for thread in threads if thread.is_alive()]
    assert [one.json() for one in answers] == [before] * NUM_REQUESTS
    assert len(seen | {*admin.processes("sleepy")}) == 1, "it was loaded more than once"
    assert wait_until(lambda: admin.models()["sleepy"]["state"] == "asleep", 60)
    # What cannot be loaded any more is said, and one may come again.
    weights = tiny_classifier / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    try:
        failed = admin.ask("/sleepy/predict", predict)
    finally:
        weights.write_bytes(whole)
    assert failed.status_code == 503 and "WeightError" in failed.text
    assert failed.headers["retry-after"]
    tensor = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["I like you."]}
    answer = admin.ask("/v2/models/sleepy/infer", {"inputs": [tensor]})
    assert answer.status_code == 200, answer.text
    admin.do("models/unload", model="sleepy")
    assert wait_until(lambda: admin.ask("/sleepy/predict", predict).status_code == 404, 60)
    assert admin.models()["sleepy"]["state"] == "unloaded"
