"""A client that openapi-python-client writes from the description: complete, and it works."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateways import EMBEDDER, GENERATOR, Served

# Before a server is started for it.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openapi_python_client") is None,
    reason="openapi-python-client is not installed: see requirements/clients.txt",
)
_PACKAGE = "typed_atoll"
_CONFIG: dict[str, Any] = {"post_hooks": []}
_TEXT = "What is deep learning?"
_CHAT = {"messages": [{"role": "user", "content": _TEXT}], "max_tokens": 3}
_OPENAI, _TEI, _TGI = "open_ai", "text_embeddings_inference", "text_generation_inference"
_TENSOR = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": [_TEXT]}
# Module, class and fields of the body, other arguments, and where the answer has what.
_CALLS: list[tuple[str, str, dict[str, Any], dict[str, Any], Any]] = [
    (f"{_OPENAI}.get_v1_models", "", {}, {}, lambda a: a.data[0].id == EMBEDDER),
    (f"{_OPENAI}.post_v1_chat_completions", "ChatBody", _CHAT, {},
     lambda a: a.choices[0].message.content and a.usage.completion_tokens == 3),
    (f"{_OPENAI}.post_v1_responses", "ResponseBody", {"input": _TEXT, "max_output_tokens": 3}, {},
     lambda a: a.status == "incomplete" and a.output[0].content[0].text),
    (f"{_OPENAI}.post_v1_embeddings", "EmbeddingsBody", {"input": _TEXT}, {},
     lambda a: len(a.data[0].embedding) == 384),
    ("anthropic.post_v1_messages", "MessagesBody", _CHAT, {},
     lambda a: a.content[0].text and a.stop_reason == "max_tokens"),
    ("ollama.get_api_tags", "", {}, {}, lambda a: a.models[0].name.startswith(EMBEDDER)),
    ("ollama.post_api_chat", "OllamaChatBody",
     {"messages": _CHAT["messages"], "stream": False, "options": {"num_predict": 3}}, {},
     lambda a: a.message.content and a.done),
    (f"{_TEI}.post_embed", "EmbedBody", {"inputs": [_TEXT, "a"]}, {},
     lambda a: [len(row) for row in a] == [384, 384]),
    (f"{_TEI}.get_info", "", {}, {}, lambda a: a.max_total_tokens > 0),
    (f"{_TGI}.post_generate", "GenerateBody",
     {"inputs": _TEXT, "parameters": {"max_new_tokens": 3, "details": True}}, {},
     lambda a: a.generated_text and len(a.details.tokens) == 3),
    ("k_serve.get_v2_model", "", {}, {"model": GENERATOR}, lambda a: a.name == GENERATOR),
    ("k_serve.post_v2_model_infer", "InferRequest", {"inputs": [_TENSOR]}, {"model": EMBEDDER},
     lambda a: a.outputs[0].shape == [1, 384]),
]  # fmt: skip


def test_a_generated_client(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = httpx.get(f"{served.url}/openapi.json").json()
    config, folder = tmp_path / "config.json", tmp_path / _PACKAGE
    config.write_text(json.dumps(_CONFIG))
    command = [
        sys.executable, "-m", "openapi_python_client", "generate",
        "--url", f"{served.url}/openapi.json", "--output-path", str(folder), "--meta", "none",
        "--config", str(config), "--fail-on-warning",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    wanted = {one["operationId"] for path in description["paths"].values() for one in path.values()}
    modules = [path for path in folder.glob("api/*/*.py") if path.stem != "__init__"]
    assert {path.stem for path in modules} == wanted
    monkeypatch.syspath_prepend(str(tmp_path))
    for path in modules:
        importlib.import_module(f"{_PACKAGE}.api.{path.parent.name}.{path.stem}")
    models = importlib.import_module(f"{_PACKAGE}.models")
    client = importlib.import_module(_PACKAGE).AuthenticatedClient(served.url, token="unused")
    for name, kind, fields, arguments, is_right in _CALLS:
        body = {"body": getattr(models, kind).from_dict(fields)} if kind else {}
        call = importlib.import_module(f"{_PACKAGE}.api.{name}")
        answer = call.sync_detailed(client=client, **body, **arguments)
        assert answer.status_code == 200, (name, answer.content)
        assert is_right(answer.parsed), (name, answer.parsed)
    missing = importlib.import_module(f"{_PACKAGE}.api.{_OPENAI}.get_v1_model")
    error = missing.sync(client=client, model="other").error
    assert error.code == "model_not_found" and "other" in error.message
