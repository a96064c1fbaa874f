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
from tiny.tokenizer import write_tokenizer

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
        embed, generate, session = map(ask, server.examples())
        assert embed["model_name"] == "all-minilm-l6-v2" and embed["outputs"]
        assert "Paris" in str(generate["text_output"])
        assert session["name"] == "smollm2-135m-instruct-session"
        server.stop(signal.SIGINT)
        assert server.log.read_text().rstrip().endswith("stopped")


# What other programs are told, and what Kubernetes sets beside services called atoll and metrics.
OTHERS = {
    "BLOCK_SIZE": "human-readable", "DEVICE": "/dev/sda", "TASK": "build", "NUM_THREADS": "many",
    "METRICS_PORT": "tcp://10.0.0.1:80", "ATOLL_PORT": "tcp://10.0.0.1:80",
    "ATOLL_SERVICE_HOST": "10.0.0.1", "ATOLL_SERVICE_PORT": "80",
    "ATOLL_METRICS_PORT": "tcp://10.0.0.1:80", "ATOLL_GATEWAY_PORT": "tcp://10.0.0.1:80",
    "ATOLL_GATEWAY_GRPC_PORT": "tcp://10.0.0.1:80", "ATOLL_PORT_80_TCP_ADDR": "10.0.0.1",
}  # fmt: skip


def test_the_table_and_the_log_say_what_was_guessed_and_what_runs_it(tmp_path: Path) -> None:
    """In an environment in which every model failed to load, and the start before that."""
    from transformers import StableLmConfig, StableLmForCausalLM

    tiny_bert(tmp_path / "plain")
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 32}
    config = StableLmConfig(
        **sizes, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    StableLmForCausalLM(config).save_pretrained(tmp_path / "other")
    write_tokenizer(tmp_path / "other")
    models = [f"--model-id={tmp_path / name}" for name in ("plain", "other")]
    log = tmp_path / "server.log"
    with serving(tmp_path, *models, f"--log-file={log}", "--max-batch-total-tokens=256",
                 ATOLL_DTYPE="float32", **OTHERS) as server:  # fmt: skip
        printed, logged = server.log.read_text(), log.read_text()
        assert "embed (cls)" in printed and "conversations with other" in printed
        assert "transformers' StableLmForCausalLM" in printed and "not ours" not in printed
        for note in ("pooling 'cls' is a guess", "StableLmForCausalLM runs it, best effort"):
            assert note in printed and note in logged
        (example,) = [text for text in server.examples() if "/plain/" in text]
        embed = ask(example)
        assert embed["model_name"] == "plain" and embed["outputs"]
        server.stop(signal.SIGINT)


@pytest.mark.slow
def test_a_server_that_crashes_is_started_again_and_again(tmp_path: Path) -> None:
    """It was given up after three crashes, and clients were not told when to come back."""
    model = f"--model-id={tiny_bert(tmp_path / 'tiny')}"
    with serving(tmp_path, model, f"--log-file={tmp_path}/server.log") as server:
        (example,) = server.examples()
        for number in range(1, 5):
            server.tritonserver.send_signal(signal.SIGSEGV)
            server.wait_for("the server was ended by SIGSEGV", number)
            if number == 1:
                answer = httpx.post(f"{server.url()}/embed", json={"inputs": "x"}, timeout=60)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            server.wait_for("ready again", number)
            assert ask(example)["model_name"] == "tiny"
        assert (tmp_path / "server.log").read_text().count("Signal (11)") >= 4
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
