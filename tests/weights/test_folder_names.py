"""Folders whose names are not ASCII, where Python takes file names for ASCII: inside the server.

Its interpreter is started without a locale. "There is no such folder" was said of what was there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from in_process import write_embedder

NAMES = ("plain", "with spaces", "Modèle ü 你好")
PROGRAM = """
import json, sys
from atoll.config import Settings
from atoll.encoders.embedder import Embedder
from atoll.text.tokenizer import Tokenizer
from atoll.weights.adapters import adapter_folders
from atoll.weights.files import resolve

found = {"encoding": sys.getfilesystemencoding()}
for name in json.loads(sys.stdin.read()):
    folder = resolve(name)
    encoder = Embedder(folder, Settings(model_id=name))
    adapter = adapter_folders(f"a={name}/\\u00fc")["a"] / "adapter_config.json"
    found[name] = [
        encoder.spec.pooling, Tokenizer.load(folder).encode("reef"), adapter.read_text(),
    ]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    parent = tmp_path_factory.mktemp("models")
    for name in NAMES:
        (parent / name).mkdir()
        write_embedder(parent / name)
        (parent / name / "ü").mkdir()
        (parent / name / "ü" / "adapter_config.json").write_text("{}")
    return [str(parent / name) for name in NAMES]


def test_names_beyond_ascii_without_a_locale(folders: list[str]) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(folders), env=environment,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("encoding") == "ascii"
    assert len({json.dumps(value) for value in found.values()}) == 1 and len(found) == len(NAMES)
