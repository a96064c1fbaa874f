"""Where ``lora_adapters`` finds its adapters: folders of the caller, the hub's cache, the hub."""

from pathlib import Path

import pytest
from driving import save_llama

from atoll.cli.choose import entry_of
from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.serving.engine_loader import load_engine
from atoll.weights.adapters import adapter_folders, parse_adapters, with_absolute_folders


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The caller's folder, with adapters a and deep/b; the hub cannot be reached."""
    for name in ("a", "deep/b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def test_setting() -> None:
    assert parse_adapters("x=/p/a, /p/b,y=me/c,") == {"x": "/p/a", "b": "/p/b", "y": "me/c"}
    assert parse_adapters(None) == parse_adapters("") == {}
    for setting, message in (("x=a,x=b", "given twice"), ("=a", "not name="), ("x=", "not name=")):
        with pytest.raises(ConfigError, match=message):
            parse_adapters(setting)


def test_relative_folders_are_the_callers(folders: Path) -> None:
    """The server runs elsewhere: it said that the folder has no adapter_config.json."""
    setting = "x=./a,y=deep/b, a,here=../" + folders.name + "/a"
    found = with_absolute_folders(setting)
    a, b = folders / "a", folders / "deep" / "b"
    assert found == f"x={a},y={b},a={a},here={a}"
    assert adapter_folders(found) == {"x": a, "y": b, "a": a, "here": a}


def test_the_command_line_makes_them_absolute(folders: Path) -> None:
    save_llama(folders / "base")
    entry = entry_of("./base", {"lora_adapters": "x=./a"})
    assert entry.settings["lora_adapters"] == f"x={folders / 'a'}"
    with pytest.raises(ConfigError, match="none is no folder"):
        entry_of("./base", {"lora_adapters": "x=./none"})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./none", "none is no folder"), ("/nowhere", "/nowhere is no folder"),
        ("deep", "deep has no adapter_config.json"), ("a/b/c", "is no folder"),
        ("me/unknown", "'me/unknown' is no folder here, and the hub does not give it"),
    ],
)  # fmt: skip
def test_what_is_not_there(source: str, message: str, folders: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        adapter_folders(f"x={source}")


def test_hub_ids_from_an_earlier_download(folders: Path) -> None:
    cache = folders / "hub"
    repository = cache / "models--me--tune"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "adapter_config.json").write_text("{}")
    assert adapter_folders("x=me/tune", cache) == {"x": snapshot}
    assert with_absolute_folders("x=me/tune,./a", cache) == f"x=me/tune,a={folders / 'a'}"


def test_wrong_adapters_are_told_before_the_model_loads(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_llama(folders / "base")
    (folders / "a" / "adapter_config.json").write_text('{"peft_type": "LOHA"}')
    loaded = "atoll.runner.load_model.load_decoder"
    monkeypatch.setattr(loaded, lambda *_: pytest.fail("the model was loaded"))
    for setting, message in (("x=./none", "no folder"), ("x=./a", "LOHA")):
        with pytest.raises(ConfigError, match=message):
            load_engine(Settings(lora_adapters=setting), folders / "base")
