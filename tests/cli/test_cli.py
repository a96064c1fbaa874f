"""The commands that start no server, run as a user runs them."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from typer.testing import CliRunner

from atoll.catalogue import ENTRIES, ServedModel
from atoll.cli import main, serve
from atoll.cli.app import app
from atoll.cli.choose import Choice, checkout_repository, choose
from atoll.cli.examples import example
from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.launcher import free_ports

HUB_CONFIGS = Path(__file__).parents[1] / "data" / "hub_configs"
ATOLL = Path(sys.executable).with_name("atoll")


def command(*arguments: str, cwd: Path | None = None, **environment: str) -> tuple[int, str, str]:
    """Status and what is printed, of a process of its own, which imports everything anew."""
    done = subprocess.run(
        [str(ATOLL), *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def atoll(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """As ``command``, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "200", **environment}),
        mock.patch.object(sys, "argv", ["atoll", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


def checkpoint(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 32, **config}))
    return folder


def test_list_names_every_entry() -> None:
    code, out, _ = command("list", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["name"] for row in rows] == [entry.name for entry in ENTRIES]
    embedded = [row["name"] for row in rows if row["source"].startswith("package ")]
    assert embedded == ["all-minilm-l6-v2", "smollm2-135m-instruct"]
    code, out, _ = atoll("list")
    assert code == 0 and all(entry.model_id in out for entry in ENTRIES)


@pytest.mark.slow
def test_info_tells_what_a_model_is() -> None:
    code, out, _ = atoll("info", "all-minilm-l6-v2", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["task"] == "embed" and facts["architecture"] == "BertModel"
    assert facts["embedding_size"] == 384 and facts["max_tokens"] == 256
    assert facts["weight_bytes"] > 80_000_000
    assert facts["implementation"] == "atoll.models.bert"
    assert facts["kernels"]["linear"].startswith("atoll_kernels.")
    assert facts["ranks"] == [] and facts["rules"]["banned_tokens"] == []


def test_info_tells_what_each_gpu_would_hold() -> None:
    """SmolLM2 has three key-value heads: three ranks hold a third each, but for the norms."""
    code, out, _ = atoll("info", "smollm2-135m-instruct", "--json")
    facts = json.loads(out)
    assert (facts["tool_call_parser"], facts["reasoning_parser"]) == ("json", "none")
    whole, third = facts["ranks"]
    assert code == 0 and (whole["num_shard"], third["num_shard"]) == (1, 3)
    assert whole["cache_bytes_per_token"] == 3 * third["cache_bytes_per_token"] == 23040
    norms = 61 * 576 * 2
    assert whole["weight_bytes"] - norms == 3 * (third["weight_bytes"] - norms)
    code, out, _ = atoll("info", "smollm2-135m-instruct", COLUMNS="200")
    assert "num_shard 3: each GPU 0.09 GB of weights, 7.7 kB of cache a token" in out
    # The values that the rules may have, of which there are none, stood in brackets.
    assert "rules" not in out and "()" not in out


@pytest.mark.slow
def test_info_says_that_an_architecture_is_not_supported(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "Whisper X", architectures=["XForCausalLM"], model_type="x")
    code, out, err = atoll("info", str(folder), "--json")
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and "XForCausalLM (model_type 'x') is not supported" in err


def test_errors_are_one_line_and_status_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = command("info", "./absent", cwd=tmp_path)
    assert (code, out) == (1, "")
    assert err == "error: model_id './absent': there is no such folder\n"
    monkeypatch.chdir(tmp_path)
    code, _, err = atoll("serve", "--dtype", "int3")
    assert code == 1 and err.startswith("error: dtype is 'int3'; allowed: ")
    code, _, err = atoll("serve", ATOLL_MAX_BATCH_TOKENS="0")
    assert code == 1 and "ATOLL_MAX_BATCH_TOKENS is 0" in err


def test_render_and_its_check(tmp_path: Path) -> None:
    assert atoll("render", str(tmp_path))[0] == 0
    assert atoll("render", "--check", str(tmp_path))[0] == 0
    (tmp_path / ENTRIES[0].name / "config.pbtxt").write_text("changed")
    code, _, err = atoll("render", "--check", str(tmp_path))
    assert code == 1 and f"{ENTRIES[0].name}/config.pbtxt" in err
    assert atoll("render", "--check")[0] == 0, "run `atoll render` and commit the result"


def test_every_setting_is_a_flag_with_an_environment_variable() -> None:
    code, out, _ = atoll("serve", "--help", COLUMNS="300")
    assert code == 0
    for setting in fields(Settings):
        assert f"--{setting.name.replace('_', '-')}" in out, setting.name
        assert f"ATOLL_{setting.name.upper()}" in out, setting.name


def test_without_arguments_the_checkouts_embedded_entries_are_served() -> None:
    choice = choose([], None, {})
    assert choice.repository == checkout_repository() and choice.repository is not None
    embedded = ["all-minilm-l6-v2", "smollm2-135m-instruct"]
    assert list(choice.names) == [*embedded, "smollm2-135m-instruct-session"]
    changed = choose([], None, {"dtype": "bfloat16"})
    assert [entry.name for entry in changed.entries] == embedded
    assert all(entry.settings["dtype"] == "bfloat16" for entry in changed.entries)


def test_any_checkpoint_becomes_an_entry(tmp_path: Path) -> None:
    first = checkpoint(tmp_path / "a" / "Same Name", architectures=["BertModel"], model_type="bert")
    second = checkpoint(
        tmp_path / "b" / "same-name", architectures=["LlamaForCausalLM"], model_type="llama"
    )
    ids = [str(first), str(second), "smollm2-135m-instruct", "all-minilm-l6-v2"]
    choice = choose(ids, None, {"max_batch_tokens": "64"})
    assert [(e.name, e.task) for e in choice.entries] == [
        ("same-name", "embed"), ("same-name-2", "generate"),
        ("smollm2-135m-instruct", "generate"), ("all-minilm-l6-v2", "embed"),
    ]  # fmt: skip
    assert choice.entries[0].model_id == str(first)
    assert choice.entries[0].dims["embedding"] == 32
    for entry in choice.entries:
        assert entry.settings == ({"max_batch_tokens": "64"} if entry.task == "embed" else {})
    named = choose([str(first)], None, {"served_model_name": "mine"})
    assert [(e.name, dict(e.settings)) for e in named.entries] == [("mine", {})]
    assert not named.notes
    for model in (str(first), "all-minilm-l6-v2"):
        asked = choose([model], None, {"served_model_name": "Mine/Own"})
        assert [entry.name for entry in asked.entries] == ["own"]
        assert "served as 'own', not as 'Mine/Own'" in asked.notes[0]
    with pytest.raises(ConfigError, match="single --model-id"):
        choose(ids, None, {"served_model_name": "mine"})


def test_a_repository_is_served_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose([], tmp_path, {}) == Choice(repository=tmp_path)
    assert choose(["x"], tmp_path, {}) == Choice(repository=tmp_path, names=("x",))
    with pytest.raises(ConfigError, match="without --dtype"):
        choose(["x"], tmp_path, {"dtype": "auto"})
    monkeypatch.setenv("DTYPE", "auto")  # which the models read themselves
    assert choose([], tmp_path, {"dtype": "auto"}) == Choice(repository=tmp_path)


def test_a_repository_in_an_object_store_is_refused_in_the_format_of_the_logs() -> None:
    """It was looked for as a folder."""
    code, out, err = command("serve", "--log-format=json", "--repository=s3://bucket/models")
    line = json.loads(err)
    assert (code, out, line["level"], line["process"]) == (1, "", "error", "launcher")
    assert "s3:" in line["message"] and "Triton's own --model-repository" in line["message"]


@pytest.mark.parametrize("task", ["embed", "generate", None])
def test_examples_survive_the_shell(task: str | None) -> None:
    words = shlex.split(example(ServedModel("m", task), "http://127.0.0.1:8000"))
    assert words[:2] == ["curl", "-s"]
    assert words[2].startswith("http://127.0.0.1:8000/v2/models/m")
    if task is not None:
        assert words[3] == "-d" and json.loads(words[4])


@pytest.mark.slow
def test_doctor_finds_this_machine_fit() -> None:
    code, out, _ = atoll("doctor", "--json")
    found = {item["name"]: item for item in json.loads(out)}
    failed = [item for item in found.values() if item["status"] == "fail"]
    assert code == 0 and not failed
    for name in ("Python", "numpy", "tritonserver", "shared memory", "torch", "CPU", "cache"):
        assert name in found
    assert all(item["remedy"] for item in found.values() if item["status"] != "ok")


def test_doctor_on_a_model_that_is_not_divided() -> None:
    code, out, _ = atoll("doctor", "--model", "all-minilm-l6-v2", "--model", "no/such", "--json")
    *_, embedder, missing = json.loads(out)
    assert embedder["name"] == "all-minilm-l6-v2" and embedder["status"] == "ok"
    assert code == 1 and missing["status"] == "fail" and "no/such" in missing["found"]


@pytest.mark.parametrize("flag", ["--port", "--gateway-grpc-port", "--http-port", "--metrics-port"])
def test_a_port_that_cannot_be_is_refused_by_its_flag(flag: str) -> None:
    """99999 ended in a traceback."""
    code, _, err = atoll("serve", f"{flag}=99999")
    assert code == 2 and flag in err and "65535" in err
    code, _, err = atoll("serve", f"{flag}=8001")
    assert code == 1 and flag in err and "--grpc-port" in err and "both 8001" in err


def test_a_model_that_is_named_twice_is_not_served_twice() -> None:
    """It was, under the names all-minilm-l6-v2 and all-minilm-l6-v2-2."""
    twice = ["--model-id=all-minilm-l6-v2"] * 2
    for repository in ([], ["--repository=model_repository"]):
        code, _, err = atoll("serve", *twice, *repository)
        assert code == 1 and "all-minilm-l6-v2 more than once" in err


def test_hosts_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """Each refusal left an empty folder behind, in the folder for temporary files."""
    hosts = ("--host=0.0.0.0", "--port=0")
    code, _, err = command("serve", *hosts, cwd=tmp_path, TMPDIR=str(tmp_path))
    assert code == 1 and "--triton-host" in err
    assert not [*tmp_path.iterdir()]


def test_triton_on_another_network_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ports were open to all beside a gateway that asks for a key, without a word."""
    monkeypatch.setattr(serve, "_run", lambda *_: None)
    ports = free_ports(5)
    names = ("port", "gateway-grpc-port", "http-port", "grpc-port", "metrics-port")
    flags = [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
    said = {}
    for host in ("127.0.0.1", "0.0.0.0"):
        run = CliRunner().invoke(
            app, ["serve", f"--triton-host={host}", "--api-key=k", *flags], env={"COLUMNS": "400"}
        )
        assert run.exit_code == 0, run.output
        said[host] = run.stderr
    assert "warning" not in said["127.0.0.1"]
    assert "warning: Triton listens on 0.0.0.0" in said["0.0.0.0"]
    assert "ask for no key, also not for --api-key" in said["0.0.0.0"]
    assert all(str(port) in said["0.0.0.0"] for port in ports[2:])
