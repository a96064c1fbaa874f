"""LoRA adapters are loaded into and unloaded from a generator that runs."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from admin_server import KEY, Administered
from small_models import wait_until

from atoll.errors import AtollError


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``base``, a generator, and ``one``, ``two`` and ``other``: adapters, the last for another
    model."""
    from adapters import save_adapter
    from echo import TEMPLATES, write_echo
    from safetensors.torch import load_file, save_file

    root = tmp_path_factory.mktemp("adapters")
    write_echo(root / "base", *TEMPLATES["xml"])
    for seed, name in enumerate(("one", "two", "other")):
        save_adapter(root / "base", root / name, seed, ["c_attn"], r=4, lora_alpha=64)
    weights = root / "other" / "adapter_model.safetensors"
    tensors = load_file(weights).items()
    save_file({k: v[..., :-1].clone() if "lora_A" in k else v for k, v in tensors}, weights)
    return root


def said(admin: Administered, model: str, **options: Any) -> str:
    body = {"model": model, "prompt": "abcdefgh" * 32, "max_tokens": 8, "temperature": 0, **options}
    answer = admin.ask("/v1/completions", body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def listed(admin: Administered) -> set[str]:
    found = httpx.get(f"{admin.server.url()}/v1/models", timeout=60).json()["data"]
    return {one["id"] for one in found}


def test_adapters_come_and_go(admin: Administered, adapters: Path) -> None:
    settings = {"max_loras": "2"}
    admin.do("models/load", model=str(adapters / "base"), name="base", settings=settings)
    plain = said(admin, "base")
    vllm = {"lora_name": "poet", "lora_path": str(adapters / "one")}
    keyed = {"authorization": f"Bearer {KEY}"}

    def ask(operation: str, headers: dict[Any, Any], **body: Any) -> httpx.Response:
        url = f"{admin.server.url()}/v1/{operation}_lora_adapter"
        return httpx.post(url, json=body, headers=headers, timeout=60)

    for wrong in ({}, {b"authorization": b"Bearer \xff\xfe"}):
        assert ask("load", wrong, **vllm).status_code == 401
    for model, status, reason in (("nobody", 404, "not loaded"), ("count", 400, "no generator")):
        for operation in ("load", "unload"):
            named = {**vllm, "model": model}
            named = named if operation == "load" else {k: named[k] for k in ("lora_name", "model")}
            answer = ask(operation, keyed, **named)
            assert answer.status_code == status and reason in answer.text
    assert "--lora-folder" in ask("load", keyed, **vllm | {"lora_path": "/etc"}).text
    assert "a relative path" in ask("load", keyed, **vllm | {"lora_path": "./one"}).text
    assert ask("load", keyed, **vllm).text == "Success: LoRA adapter 'poet' added successfully."
    assert "poet" in listed(admin) and admin.models()["base"]["adapters"] == ["poet"]
    first = said(admin, "poet")
    assert first != plain == said(admin, "base")
    assert "load_inplace" in ask("load", keyed, **vllm).text
    two = {**vllm, "lora_path": str(adapters / "two"), "load_inplace": True}
    assert ask("load", keyed, **two).status_code == 200
    # Its cached prefix is not that of the one which it replaces.
    second = said(admin, "poet")
    assert len({plain, first, second}) == 3
    admin.do("adapters/load", lora_name="one", lora_path=str(adapters / "one"))
    assert said(admin, "one") == first
    with pytest.raises(AtollError, match="max_loras is 2"):
        admin.do("adapters/load", lora_name="three", lora_path=str(adapters / "two"))
    admin.do("adapters/unload", lora_name="one")
    with pytest.raises(AtollError, match="lora_A.weight takes 127 features"):
        admin.do("adapters/load", lora_name="stranger", lora_path=str(adapters / "other"))
    for name in ("base", "count"):
        with pytest.raises(AtollError, match="no model's"):
            admin.do("adapters/load", lora_name=name, lora_path=str(adapters / "one"))
    for name in ("a b", "a\n", "a:b", "x" * 201):
        with pytest.raises(AtollError, match=r"lora_name is .* at most 200"):
            admin.do("adapters/load", lora_name=name, lora_path=str(adapters / "one"))
    # A client without the launcher's key may not, although it reaches the model.
    question = {"op": "load_adapter", "name": "x", "folder": str(adapters / "one"), "key": "x"}
    answer = admin.ask(
        "/v2/models/base/generate",
        {"text_input": "", "parameters": {"control": json.dumps(question)}},
    )
    assert answer.status_code == 400 and "launcher" in answer.text
    os.kill(admin.processes("base")[0], signal.SIGKILL)
    assert wait_until(lambda: admin.models()["base"].get("adapters") == ["poet"], 60)
    assert said(admin, "poet") == second
    unload = {"lora_name": "poet"}
    assert ask("unload", keyed, **unload).text.endswith("removed successfully.")
    assert ask("unload", keyed, **unload).status_code == 404 and "poet" not in listed(admin)
    assert admin.ask("/v1/completions", {"model": "poet", "prompt": "a"}).status_code == 404
    assert said(admin, "base") == plain
