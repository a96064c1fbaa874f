"""Commands around a repository and a server that need neither a network nor a server."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from typer.testing import CliRunner

from atoll.catalogue import ENTRIES, read_repository, render
from atoll.cli import load, main
from atoll.cli.app import app
from atoll.errors import ConfigError
from atoll.weights.progress import progress_bar
from atoll.weights.reader import CheckpointReader
from atoll_kernels.cpu.native import BuildError

MINILM = "all-minilm-l6-v2"


def atoll(*arguments: str, **environment: str) -> str:
    """What the command prints; raises what it raises."""
    found = CliRunner().invoke(app, arguments, catch_exceptions=False, env=environment)
    assert found.exit_code == 0, found.output
    return found.stdout


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def test_add_writes_and_shows_an_entry_that_remove_removes(tmp_path: Path) -> None:
    where = ("--repository", str(tmp_path))
    shown = atoll("add", MINILM, *where)
    entry = next(one for one in ENTRIES if one.name == MINILM)
    for name, text in render(entry, is_own=True).items():
        assert (tmp_path / MINILM / name).read_text() == text
    # It said that atoll.catalogue is the place to change it.
    written = (tmp_path / MINILM / "config.pbtxt").read_text()
    assert written.startswith("# Written by `atoll add`") and "atoll.catalogue" not in written
    assert "all-MiniLM-L6-v2" in shown and "serve --repository" in shown
    with pytest.raises(ConfigError, match="exists; --replace"):
        atoll("add", MINILM, *where)
    added = json.loads(
        atoll("add", MINILM, *where, "--name", "mine", "--set", "max-batch-tokens=99", "--json")
    )
    assert added["name"] == "mine" and added["task"] == "embed"
    served = {model.name: model.parameters for model in read_repository(tmp_path)}
    assert served["mine"]["max_batch_tokens"] == "99" and set(served) == {MINILM, "mine"}
    assert json.loads(atoll("remove", "mine", *where, ATOLL_JSON="1"))["removed"] == "mine"
    assert [model.name for model in read_repository(tmp_path)] == [MINILM]


def test_remove_takes_nothing_that_is_not_ours(tmp_path: Path) -> None:
    where = ("--repository", str(tmp_path))
    atoll("add", MINILM, *where)
    weights = tmp_path / MINILM / "1" / "weights.bin"
    weights.write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"weights\.bin"):
        atoll("remove", MINILM, *where)
    for name in ("..", "nix", "."):
        with pytest.raises(ConfigError, match="has no entry"):
            atoll("remove", name, *where)
    assert weights.exists()


def test_settings_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    for wrong, message in (("max_batch_tokens", "NAME=VALUE"), ("nix=1", "nix")):
        with pytest.raises(ConfigError, match=message):
            atoll("add", MINILM, "--repository", str(tmp_path), "--set", wrong)
    assert not list(tmp_path.iterdir())


def test_every_flag_has_a_twin_in_the_environment(tmp_path: Path) -> None:
    atoll("add", MINILM, ATOLL_REPOSITORY=str(tmp_path), ATOLL_ADD_SETTING="dtype=float32")
    (added,) = read_repository(tmp_path)
    assert added.parameters["dtype"] == "float32"
    # Wide, so that no name is cut.
    pages = {name: atoll(name, "--help", COLUMNS="300") for name in commands()}
    for name, command in commands().items():
        flags = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
        assert pages[name].count("[env var:") == len(flags) > 0, name
    assert "ATOLL_BENCH_PLOT" in pages["bench"] and "ATOLL_URL" in pages["infer"]


def test_every_command_that_prints_has_json() -> None:
    own = {"serve", "worker", "logs"}  # they print no result
    for name, command in commands().items():
        if name not in own:
            assert any("--json" in parameter.opts for parameter in command.params), name


def test_warmup_tells_where_weights_and_kernels_are() -> None:
    found = json.loads(atoll("warmup", MINILM, "--json"))
    (row,) = found["models"]
    assert row["weights"] == "safetensors" and (Path(row["folder"]) / "config.json").exists()
    assert isinstance(found["kernels"]["native"], bool) and found["kernels"]["found"]
    assert MINILM in atoll("warmup", MINILM)


@pytest.mark.parametrize("num_shards", [1, 2])
def test_warmup_writes_bins_again_where_readers_look_first(tmp_path: Path, num_shards: int) -> None:
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(4).bfloat16()}
    names = [f"pytorch_model-0000{i + 1}-of-00002.bin" for i in range(2)]
    parts = {"pytorch_model.bin": tensors} if num_shards == 1 else {
        name: {key: tensors[key]} for name, key in zip(names, tensors, strict=True)
    }  # fmt: skip
    for name, part in parts.items():
        torch.save(part, tmp_path / name)
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    before = {path.name for path in tmp_path.iterdir()}
    for _ in range(2):
        (row,) = json.loads(atoll("warmup", str(tmp_path), "--json"))["models"]
        assert (row["weights"], row["note"]) == ("safetensors", "")
    new = {path.name for path in tmp_path.iterdir()} - before
    assert new == ({"model.safetensors"} if num_shards == 1 else {
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    })  # fmt: skip
    for name in before - {"config.json"}:
        (tmp_path / name).unlink()
    reader = CheckpointReader(tmp_path)
    assert sorted(reader.names()) == sorted(tensors)
    assert all(torch.equal(reader.tensor(name), tensor) for name, tensor in tensors.items())


def test_warmup_goes_on_where_it_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("atoll.weights.convert.add_safetensors", full)
    assert "No space left" in atoll("warmup", str(tmp_path))
    (row,) = json.loads(atoll("warmup", str(tmp_path), "--json"))["models"]
    assert row["weights"] == ".bin" and "No space left" in row["note"]


def test_warmup_compiles_every_instruction_set_for_an_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[str] = []
    monkeypatch.setattr("atoll_kernels.cpu.native.build_all", lambda: calls.append("all"))
    assert json.loads(atoll("warmup", "--json"))["models"] == [] and not calls
    atoll("warmup", ATOLL_KERNELS=str(tmp_path))
    assert calls == ["all"]

    def fail() -> None:
        raise BuildError("there is no C++ compiler (g++)")

    monkeypatch.setattr("atoll_kernels.cpu.native.build_all", fail)
    with pytest.raises(ConfigError, match=r"ATOLL_KERNELS is set: .*g\+\+"):
        atoll("warmup", ATOLL_KERNELS=str(tmp_path))


def test_conversion_draws_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress_bar("converting x") as advance:
        assert advance is not None
        advance(1, 2)
    assert "converting x" in terminal.getvalue()
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with progress_bar("converting x") as advance:
        assert advance is None


@pytest.mark.parametrize("arguments", [
    ("infer", "m", "--text", "a", "--url", "localhost:1"),
    ("chat", "m", "--url", "http://localhost:1"),
    ("bench", "m", "--url", "localhost:1"),
    ("bench", "m", "--concurrency", "1,x"),
    ("bench", "m", "--plot", "/nowhere/at/all.svg"),
    ("profile", "m", "--url", "localhost:1"),
    ("warmup", "/nowhere"),
])  # fmt: skip
def test_errors_are_one_line(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["atoll", *arguments])
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 1
    assert said[-1].startswith("error: ") and "Traceback" not in "".join(said), said


def test_completion_completes() -> None:
    asked = {"_ATOLL_COMPLETE": "complete_bash", "COMP_WORDS": "atoll warm", "COMP_CWORD": "1"}
    command = [str(Path(sys.executable).with_name("atoll"))]
    done = subprocess.run(
        command, env={**os.environ, **asked}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["warmup"]


def test_load_has_rows_for_each_task() -> None:
    for task in ("embed", "sparse", "classify", "rerank", "token_classify", "generate"):
        rows = load.rows(task, 5, 3)
        # Where a model leaves a shape open, perf_analyzer has to be told it.
        is_open = task in ("sparse", "classify", "rerank", "token_classify")
        assert all(isinstance(row["text_input"], dict) == is_open for row in rows)
        given = [row["text_input"]["content"] if is_open else row["text_input"] for row in rows]
        texts = {content[0] for content in given}
        assert len(texts) == len(rows) and all(len(text.split()) == 5 for text in texts)
    with pytest.raises(ConfigError, match="nix"):
        load.rows("nix", 5, 3)
