"""Settings that mean nothing to a model's task: refused where they are its own, told of where they
may be meant for another model. They were taken and had no effect, without a word.
"""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from lookalikes import BERT, LLAMA, folder_of

from atoll.catalogue import ENTRIES, write_repository
from atoll.cli.catalogue import info
from atoll.cli.choose import choose
from atoll.cli.repository import add
from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.models.detect import decide
from atoll.models.task_settings import TASKS, check_parameters, fitting, tasks_of

EMBEDDER, GENERATOR = "all-minilm-l6-v2", "smollm2-135m-instruct"
# A value of each setting that not all tasks read, and a task that does not.
UNFIT = {
    "pooling": ("mean", "generate"), "dense_path": ("2_Dense", "rerank"),
    "reranker_template": ("pair", "classify"),
    "max_batch_tokens": ("64", "generate"), "max_batch_requests": ("4", "generate"),
    "max_client_batch_size": ("4", "generate"), "auto_truncate": ("false", "generate"),
    "prompts": ('{"q": "x"}', "rerank"), "default_prompt_name": ("q", "classify"),
    "default_prompt": ("query: ", "rerank"), "tokenization_workers": ("1", "generate"),
    "max_total_tokens": ("64", "embed"), "max_batch_prefill_tokens": ("64", "sparse"),
    "max_batch_total_tokens": ("64", "rerank"), "max_batch_size": ("4", "classify"),
    "waiting_served_ratio": ("1.2", "embed"), "max_waiting_tokens": ("2", "embed"),
    "max_beams": ("4", "embed"), "max_best_of": ("4", "embed"),
    "max_stop_sequences": ("2", "embed"),
    "max_top_n_tokens": ("2", "embed"), "block_size": ("32", "embed"),
    "memory_fraction": ("0.2", "embed"), "prefix_caching": ("false", "embed"),
    "cuda_graphs": ("false", "embed"), "speculate": ("3", "embed"),
    "lora_adapters": ("x=./a", "embed"), "rope_scaling": ("linear", "embed"),
    "rope_factor": ("2", "embed"), "max_preparation_s": ("3", "embed"),
    "disable_grammar_support": ("true", "embed"), "watermark_gamma": ("0.3", "embed"),
    "watermark_delta": ("1", "embed"), "session_timeout_s": ("5", "embed"),
    "num_shard": ("2", "embed"), "sharded": ("true", "rerank"), "num_nodes": ("2", "embed"),
    "shard_port": ("3000", "embed"), "shard_timeout_s": ("7", "embed"),
    "tool_call_parser": ("hermes", "embed"), "reasoning_parser": ("qwen3", "rerank"),
    "max_image_bytes": ("1000", "rerank"), "max_image_pixels": ("1000", "sparse"),
    "state_snapshots": ("3", "embed"), "state_dtype": ("bfloat16", "embed"),
    "max_input_tokens": ("64", "transcribe"), "max_audio_bytes": ("1000", "embed"),
    "max_audio_seconds": ("60", "generate"), "max_loras": ("4", "embed"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.removeprefix("ATOLL_").lower() in UNFIT:
            monkeypatch.delenv(name)


def test_every_setting_of_a_group_is_here() -> None:
    unfit = {f.name for f in fields(Settings) if tasks_of(f.name) != TASKS}
    assert unfit == set(UNFIT)
    assert {f.metadata["group"] for f in fields(Settings) if f.name not in unfit} == {
        "model", "limits", "logs",
    }  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_an_entrys_own_parameter(name: str) -> None:
    text, task = UNFIT[name]
    with pytest.raises(ConfigError, match=f"{name} is .*'{task}', where it has no effect"):
        check_parameters({name: text}, task, "m")
    check_parameters({name: text}, tasks_of(name)[0], "m")
    default = next(f.default for f in fields(Settings) if f.name == name)
    check_parameters({name: "" if default is None else str(default)}, task, "m")
    assert fitting({name: text, "dtype": "auto"}, task) == {"dtype": "auto"}


@pytest.mark.parametrize("task", TASKS)
def test_entries_of_the_catalogue_have_none(task: str) -> None:
    for entry in ENTRIES:
        if entry.task == task:
            check_parameters(entry.parameters(), task, entry.name)


def test_a_model_is_not_loaded_with_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What ``initialize`` gets of a config.pbtxt; the environment's may be another model's."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", MagicMock())
    monkeypatch.delitem(sys.modules, "atoll.serving.triton.tensors", raising=False)
    from atoll.serving.triton.instance import instance_settings

    monkeypatch.setenv("ATOLL_SPECULATE", "3")
    (tmp_path / "1").mkdir()

    def args(**parameters: str) -> dict[str, str]:
        found = {k: {"string_value": v} for k, v in {"model_id": "x/y", **parameters}.items()}
        return {
            "model_config": json.dumps({"parameters": found}), "model_name": "mine",
            "model_repository": str(tmp_path), "model_version": "1",
        }  # fmt: skip

    with pytest.raises(ConfigError, match="max_best_of is '4', but mine is served for task 'emb"):
        instance_settings(args(max_best_of="4"), "embed")
    assert instance_settings(args(max_best_of="2"), "embed").speculate == 3
    assert instance_settings(args(max_best_of="4"), "generate").max_best_of == 4
    monkeypatch.delitem(sys.modules, "atoll.serving.triton.tensors", raising=False)


@pytest.mark.parametrize(
    ("config", "name", "text"),
    [(BERT, "lora_adapters", "x=./a"), (BERT, "rope_factor", "2"), (LLAMA, "pooling", "mean"),
     (LLAMA, "default_prompt", "q: ")],
)  # fmt: skip
def test_the_environments_are_told_at_load_and_by_info(
    config: dict[str, Any], name: str, text: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = folder_of(tmp_path, config)
    monkeypatch.setenv(f"ATOLL_{name.upper()}", text)
    settings = Settings.read({"model_id": str(folder)})
    notes = [note for note in decide(folder, settings).notes if note.startswith(name)]
    assert len(notes) == 1 and "no effect" in notes[0]
    info(str(folder), as_json=True)
    assert notes[0] in json.loads(capsys.readouterr().out)["notes"]


def test_flags_go_to_the_models_that_they_fit(tmp_path: Path) -> None:
    """The entry of an embedder had the adapters of the generator beside it."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    settings = {"lora_adapters": f"x={tmp_path}/a", "max_batch_tokens": "64", "dtype": "auto",
                "max_best_of": "2"}  # fmt: skip
    choice = choose([EMBEDDER, GENERATOR], None, settings)
    first, second = choice.entries
    assert first.settings == {"max_batch_tokens": "64", "dtype": "auto"}
    assert second.settings == {k: v for k, v in settings.items() if k != "max_batch_tokens"}
    assert choice.notes == (
        f"lora_adapters is for {GENERATOR}; it has no effect on {EMBEDDER} (embed)",
        f"max_batch_tokens is for {EMBEDDER}; it has no effect on {GENERATOR} (generate)",
    )
    for model, setting in ((EMBEDDER, "lora_adapters"), (GENERATOR, "max_batch_tokens")):
        with pytest.raises(ConfigError, match=f"{setting} is .*{model} is for "):
            choose([model], None, settings)


def test_the_environments_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_SPECULATE", "3")
    write_repository([e for e in ENTRIES if e.name in (EMBEDDER, GENERATOR)], tmp_path)
    found = choose([], tmp_path, {"speculate": "3"})
    assert found.notes == (f"speculate is for {GENERATOR}; it has no effect on {EMBEDDER} (embed)",)
    with pytest.raises(ConfigError, match="speculate is '3', but is for task generate"):
        choose([EMBEDDER], tmp_path, {"speculate": "3"})
    assert choose([], None, {"speculate": "3"}).notes  # the checkout's own


def test_add_writes_no_entry_with_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="speculate is '3', but"):
        add(EMBEDDER, repository=tmp_path, setting=["speculate=3"])
    assert not list(tmp_path.iterdir())


def test_serve_names_it_before_a_server_starts(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "atoll"), "serve", "--model-id", EMBEDDER]
    found = subprocess.run(
        [*command, "--lora-adapters", "x=./a"], capture_output=True, text=True, cwd=tmp_path,
        timeout=120,
    )  # fmt: skip
    assert found.returncode != 0
    assert "lora_adapters is 'x=./a'" in found.stderr and "Traceback" not in found.stderr
