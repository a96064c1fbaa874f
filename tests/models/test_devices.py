"""Which GPU a process uses: what settings and Triton name, threads, kernels that do not run."""

from __future__ import annotations

import json
import logging
import multiprocessing
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from atoll.encoders.engine import EncoderEngine
from atoll.encoders.packer import PREFERRED_TOKENS, Item
from atoll.errors import ConfigError
from atoll.models import load_options
from atoll.models.load_options import device_of
from atoll.runner import memory
from atoll_kernels import dispatch, gpu
from atoll_kernels.backends import KernelPolicy
from atoll_kernels.device import enter, prepare
from atoll_kernels.gpu import selftest

SECOND = torch.device("cuda", 1)


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Any]]]:
    """A machine with two GPUs; the threads that were sent to one, by name."""
    calls: list[tuple[str, Any]] = []
    here = threading.current_thread
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda d: calls.append((here().name, d)))
    yield calls
    dispatch.configure(KernelPolicy())


def test_names(entered: list[Any]) -> None:
    """A GPU has its number always: ``torch.cuda.set_device`` takes none without."""
    assert device_of("auto") == device_of("cuda") == device_of("cuda:0") == torch.device("cuda", 0)
    assert device_of("cuda:1") == SECOND and device_of("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="device is 'cuda:2'; GPUs here: 2, counted from 0"):
        device_of("cuda:2")
    for name in ("gpu", "cuda:x", "cuda:", "meta", "1"):
        with pytest.raises(ConfigError, match="expected auto, cpu, cuda or cuda:N"):
            device_of(name)


def test_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A GPU whose driver is too old for torch was passed over without a word."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(load_options, "_GPU_FILES", (tmp_path / "nvidia0",))
    with caplog.at_level(logging.WARNING):
        assert device_of("auto") == device_of("cpu") == torch.device("cpu")
        assert caplog.text == ""
        (tmp_path / "nvidia0").touch()
        assert device_of("cpu") == torch.device("cpu") and caplog.text == ""
        assert device_of("auto") == torch.device("cpu")
    assert "there is a GPU" in caplog.text and "atoll doctor" in caplog.text
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        device_of("cuda:0")


def test_the_engine_thread_is_on_its_device(entered: list[Any]) -> None:
    """Kernels are launched where the thread is: with device cuda:1 they ran on the first GPU."""
    enter(torch.device("cpu"))
    assert entered == []
    engine = EncoderEngine(lambda batch, items: [], SECOND, max_batch_tokens=8)
    engine.start()
    engine.stop()
    assert entered == [("atoll-encoder", SECOND)]


def test_a_gpu_gets_packs_of_all_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs ended at 4,096 tokens, which a GPU computes sooner than they are launched."""
    sizes: dict[str, list[int]] = {}
    for kind in ("cpu", "cuda"):
        packs = sizes[kind] = []
        engine = EncoderEngine(
            lambda batch, items: [], torch.device(kind, 0), max_batch_tokens=3 * PREFERRED_TOKENS
        )
        monkeypatch.setattr(engine, "_run", lambda pack, to=packs: to.append(len(pack)))
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        engine.submit([Item(np.ones(PREFERRED_TOKENS, np.int32), lambda _: None) for _ in range(4)])
        engine.start()
        while sum(packs) < 4:
            time.sleep(0.01)
        engine.stop()
    assert sizes == {"cpu": [1, 1, 1, 1], "cuda": [3, 1]}


def test_kernels_that_do_not_run(
    entered: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a C compiler or Python's headers every request failed; plain torch serves it."""
    reasons = ["RuntimeError: Failed to find C compiler"]
    monkeypatch.setattr(gpu, "failure", lambda device: reasons[0])
    dispatch.configure(KernelPolicy(use_flash_attention=True))
    with caplog.at_level(logging.WARNING):
        prepare(SECOND)
    assert entered == [("MainThread", SECOND)]
    assert dispatch.policy().disable_custom_kernels and dispatch.policy().use_flash_attention
    assert "Failed to find C compiler" in caplog.text and "python3-dev" in caplog.text
    dispatch.configure(KernelPolicy())
    monkeypatch.setattr(gpu, "failure", lambda device: None)
    prepare(SECOND)
    assert not dispatch.policy().disable_custom_kernels


def test_the_reason_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    activation = pytest.importorskip("atoll_kernels.gpu.activation")

    def fails(*_: Any) -> Any:
        raise RuntimeError("Failed to find C compiler.\nPlease specify one")

    device = torch.device("cpu")
    monkeypatch.setattr(activation, "activate", fails)
    assert selftest.failure(device) == "RuntimeError: Failed to find C compiler."
    monkeypatch.setattr(activation, "activate", lambda x, name: x)
    assert selftest.failure(device) is None
    monkeypatch.setattr(activation, "activate", lambda x, name: 0 * x)
    assert selftest.failure(device) == "a kernel gave a wrong result"


def _hold(folder: str, times: Any) -> None:
    memory.tempfile.tempdir = folder
    torch.cuda.get_device_properties = lambda device: SimpleNamespace(uuid="x")  # type: ignore[assignment]
    with memory.alone_on([SECOND]):
        started = time.monotonic()
        time.sleep(0.2)
        times.put((started, time.monotonic()))


def test_one_process_measures_memory_at_a_time(tmp_path: Path) -> None:
    """Two instances of a model saw the same free memory, and both took half of it."""
    context = multiprocessing.get_context("fork")
    times = context.Queue()
    processes = [context.Process(target=_hold, args=(str(tmp_path), times)) for _ in range(3)]
    for process in processes:
        process.start()
    spans = sorted(times.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))


@pytest.mark.parametrize(
    ("kind", "setting", "expected"),
    [
        ("GPU", None, "cuda:1"),
        ("GPU", "cpu", "cpu"),
        ("CPU", None, "auto"),
        ("MODEL", None, "auto"),
    ],
)
def test_triton_names_the_gpu(
    kind: str,
    setting: str | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """instance_group { kind: KIND_GPU gpus: [1] } went to the first GPU all the same."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", MagicMock())
    monkeypatch.delitem(sys.modules, "atoll.serving.triton.tensors", raising=False)
    from atoll.serving.triton.instance import instance_settings

    parameters = {"model_id": {"string_value": "x"}}
    if setting is not None:
        parameters["device"] = {"string_value": setting}
    found = instance_settings(
        {
            "model_config": json.dumps({"parameters": parameters}),
            "model_instance_kind": kind,
            "model_instance_device_id": "1",
            "model_repository": str(tmp_path),
            "model_version": "1",
            "model_name": "m",
        },
        "embed",
    )
    assert found.device == expected
    monkeypatch.delitem(sys.modules, "atoll.serving.triton.tensors", raising=False)
