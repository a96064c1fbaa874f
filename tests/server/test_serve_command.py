"""``atoll serve`` as a user runs it: from a terminal, until Ctrl-C."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
import torch
from serving import serving

from atoll.weights.files import resolve


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


@pytest.mark.slow
def test_a_server_that_crashes_is_started_again_and_again(tmp_path: Path) -> None:
    """It was given up after three crashes, and clients were not told when to come back."""
    model = f"--model-id={tiny_bert(tmp_path / 'tiny')}"
    with serving(tmp_path, model, f"--log-file={tmp_path}/server.log") as server:
        (example,) = server.examples()
        for number in range(1, 6):
            server.tritonserver.send_signal(signal.SIGSEGV)
            server.wait_for("the server was ended by SIGSEGV", number)
            if number == 1:
                answer = httpx.post(f"{server.url()}/embed", json={"inputs": "x"}, timeout=30)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            server.wait_for("ready again", number)
            assert ask(example)["model_name"] == "tiny"
        assert (tmp_path / "server.log").read_text().count("Signal (11)") >= 5
        server.stop(signal.SIGTERM)


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
