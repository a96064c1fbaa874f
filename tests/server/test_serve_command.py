"""``atoll serve`` as a user runs it: from a terminal, until Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from atoll.launcher import free_ports
from atoll.weights.files import resolve

ATOLL = Path(sys.executable).with_name("atoll")


class Serving:
    """A running ``atoll serve`` and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self.log = process, log
        self.family = [p.pid for p in psutil.Process(process.pid).children(recursive=True)]

    def examples(self) -> list[str]:
        return [x for x in self.log.read_text().splitlines() if x.startswith("curl ")]

    def stop(self, number: signal.Signals) -> None:
        """Checks that everything is gone soon after the signal."""
        self.process.send_signal(number)
        assert self.process.wait(timeout=30) == 0, self.log.read_text()
        alive = [p for p in self.family if psutil.pid_exists(p)]
        assert not [p for p in alive if psutil.Process(p).status() != psutil.STATUS_ZOMBIE]


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Serving]:
    """``folder`` gets TMPDIR, where scratch folders must not stay, and the printed text."""
    scratch, log = folder / "scratch", folder / "out.txt"
    scratch.mkdir()
    port, http, grpc, metrics = free_ports(4)
    ports = f"--port={port} --http-port={http} --grpc-port={grpc} --metrics-port={metrics}".split()
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(ATOLL), "serve", *ports, "--exit-timeout=3", *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(scratch), "COLUMNS": "200"},
        )
    try:
        deadline = time.monotonic() + 120
        while "Ctrl-C stops everything" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield Serving(process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=30)
        assert not [*scratch.glob("atoll-*")]


def ask(example: str) -> dict[str, object]:
    done = subprocess.run(example, shell=True, capture_output=True, text=True, timeout=60)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_the_embedded_models_and_their_examples(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        text = server.log.read_text()
        for word in ("all-minilm-l6-v2", "BertModel", "smollm2-135m-instruct", "LlamaForCausalLM"):
            assert word in text
        embed, generate = map(ask, server.examples())
        assert embed["model_name"] == "all-minilm-l6-v2" and embed["outputs"]
        assert "Paris" in str(generate["text_output"])
        server.stop(signal.SIGINT)
        assert server.log.read_text().rstrip().endswith("stopped")


def tritonserver_of(command: psutil.Process) -> psutil.Process | None:
    """The server that a command runs now."""
    return next((p for p in command.children() if p.name() == "tritonserver"), None)


@pytest.mark.slow
def test_a_server_that_crashes_is_started_again_but_not_for_ever(tmp_path: Path) -> None:
    model = f"--model-id={tiny_bert(tmp_path / 'tiny')}"
    with serving(tmp_path, model, f"--log-file={tmp_path}/server.log") as server:
        (example,) = server.examples()
        command = psutil.Process(server.process.pid)
        for number in range(1, 5):
            found = tritonserver_of(command)
            assert found is not None
            found.send_signal(signal.SIGSEGV)
            if number < 4:
                wait_for(server, "ready again", number)
                assert ask(example)["model_name"] == "tiny"
        assert server.process.wait(timeout=30) == 1
        assert "the server ended with status -11" in server.log.read_text()
        assert (tmp_path / "server.log").read_text().count("Signal (11)") >= 4


def wait_for(server: Serving, text: str, count: int) -> None:
    """Until the command has printed it so many times."""
    deadline = time.monotonic() + 120
    while server.log.read_text().count(text) < count:
        assert server.process.poll() is None, server.log.read_text()
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.1)


def tiny_bert(folder: Path) -> Path:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(folder)
    source = resolve("sentence-transformers/all-MiniLM-L6-v2")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    return folder


@pytest.mark.slow
def test_any_local_checkpoints(tmp_path: Path) -> None:
    """Two of the same name, one given relative to where the command is run."""
    tiny_bert(tmp_path / "Tiny Bert")
    tiny_bert(tmp_path / "other" / "tiny bert")
    models = ("--model-id=./Tiny Bert", f"--model-id={tmp_path}/other/tiny bert")
    with serving(tmp_path, *models, "--max-batch-tokens=64") as server:
        answers = [ask(example) for example in server.examples()]
        assert [a["model_name"] for a in answers] == ["tiny-bert", "tiny-bert-2"]
        outputs = answers[0]["outputs"]
        assert isinstance(outputs, list) and outputs[0]["shape"] == [2, 32]
        server.stop(signal.SIGTERM)
