"""Which versions of an entry are served, and which checkpoint each runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atoll.catalogue import read_repository
from atoll.errors import ConfigError
from atoll.weights.versions import entry_adapters, version_model_id


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", ("11",)),
        ("version_policy { latest { num_versions: 2 } }", ("3", "11")),
        ("version_policy { latest { num_versions: 9 } }", ("1", "3", "11")),
        ("version_policy { all { } }", ("1", "3", "11")),
        ("version_policy { specific { versions: [ 3, 1, 5 ] } }", ("1", "3")),
    ],
)
def test_versions_are_those_that_triton_serves(
    policy: str, served: tuple[str, ...], tmp_path: Path
) -> None:
    """By number, not by name; other folders are none."""
    for name in ("1", "3", "11", "02", "weights", "2x"):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m" / "7").write_text("a file")
    (tmp_path / "m" / "config.pbtxt").write_text(f'name: "m" backend: "python" {policy}')
    (model,) = read_repository(tmp_path)
    assert model.versions == served


@pytest.mark.parametrize(
    ("there", "model_id", "found"),
    [
        (["1", "2"], "", "{}"),
        (["1", "2"], ".", "{}"),
        (["."], "", "."),
        (["."], ".", "."),
        (["1", "."], ".", {"1": "1", "2": "."}),
        (["1/weights", "2/weights"], "weights", "{}/weights"),
        (["weights"], "weights", "weights"),
        (["weights"], "./weights/", "weights"),
        (["1/weights", "weights"], "weights", {"1": "1/weights", "2": "weights"}),
        (["a/b"], "a/b", "a/b"),
        (["../beside"], "../beside", "../beside"),
    ],
)
def test_a_version_runs_its_own_checkpoint_or_the_entrys(
    there: list[str], model_id: str, found: Any, tmp_path: Path
) -> None:
    entry = tmp_path / "m"
    for folder in there:
        checkpoint(entry / folder)
    for version in ("1", "2"):
        (entry / version).mkdir(exist_ok=True)
        wanted = found[version] if isinstance(found, dict) else found.format(version)
        assert version_model_id(entry, version, model_id) == str((entry / wanted).resolve())


def test_without_a_checkpoint_of_its_own_an_entry_runs_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    for model_id in ("org/name", "gpt2", "/elsewhere", ""):
        assert version_model_id(tmp_path / "m", "1", model_id) == model_id


@pytest.mark.parametrize("model_id", [".", "./weights", "../weights", "..", "empty"])
def test_a_relative_folder_that_is_not_there(model_id: str, tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"model_id .*there is no such folder"):
        version_model_id(tmp_path / "m", "1", model_id)


@pytest.mark.parametrize("model_id", ["org/name", "/elsewhere", "weights"])
def test_a_checkpoint_that_model_id_passes_over_is_told(model_id: str, tmp_path: Path) -> None:
    """Both versions ran what model_id said, and the weights in their folders were not looked at."""
    checkpoint(tmp_path / "m" / "2")
    checkpoint(tmp_path / "m" / "weights")
    with pytest.raises(ConfigError, match=f"model_id is .*{tmp_path}/m/2 holds a checkpoint"):
        version_model_id(tmp_path / "m", "2", model_id)


def test_a_gguf_file_is_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "small.gguf").write_bytes(b"GGUF")
    found = version_model_id(tmp_path / "m", "1", "small.gguf")
    assert found == str((tmp_path / "m" / "1" / "small.gguf").resolve())


def test_adapters_beside_the_config_are_found(tmp_path: Path) -> None:
    for folder in ("m/1/own", "m/shared", "m/2"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("m/1/own", "m/shared"):
        (tmp_path / folder / "adapter_config.json").write_text("{}")
    entry = tmp_path / "m"
    setting = "a=own, b=./shared,c=/elsewhere,org/name"
    found = entry_adapters(entry, "1", setting).split(",")
    assert found == [f"a={entry}/1/own", f"b={entry}/shared", "c=/elsewhere", "org/name"]
    assert entry_adapters(entry, "2", "a=own") == "a=own"
