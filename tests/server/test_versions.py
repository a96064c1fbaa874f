"""A repository of somebody's own, through ``atoll serve``: versions, weights beside the configs,
and models that are not ours."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import other_models
import psutil
import pytest
import torch
import transformers as hf
from serving import Serving, serving
from tiny.checkpoint import enliven
from tiny.encoders import write_text_files
from tiny.tokenizer import write_tokenizer

from atoll.catalogue import write_repository
from atoll.cli.choose import entry_of

ALL = "version_policy { all { } }"


def _entry(root: Path, name: str, source: Path, model_id: str | None, policy: str = "") -> Path:
    """An entry with versions 1 and 2, as ``atoll add`` writes it, its model_id changed."""
    write_repository([entry_of(str(source), {"served_model_name": name})], root)
    entry = root / name
    text = (entry / "config.pbtxt").read_text()
    if model_id is None:
        before, _, rest = text.partition('parameters {\n  key: "model_id"')
        text = before + rest.partition("\n}\n")[2]
        assert before and "model_id" not in text
    else:
        assert str(source) in text
        text = text.replace(json.dumps(str(source)), json.dumps(model_id))
    (entry / "config.pbtxt").write_text(f"{text}\n{policy}\n")
    shutil.copytree(entry / "1", entry / "2")
    return entry


def _write(model: Any, folder: Path, seed: int) -> Any:
    enliven(model.eval(), seed)
    model.save_pretrained(folder)
    return model


def _encoder(folder: Path, seed: int) -> Any:
    """A tiny BERT that pools by [CLS]; transformers' model of it."""
    sizes = dict.fromkeys(("hidden_size", "intermediate_size"), 32)
    config = hf.BertConfig(
        vocab_size=96, num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=64,
        **sizes,
    )  # fmt: skip
    model = _write(hf.BertModel(config), folder, seed)
    write_text_files(folder, pooling="cls")
    return model


def _decoder(folder: Path, seed: int) -> Any:
    sizes = dict.fromkeys(("hidden_size", "intermediate_size"), 32)
    config = hf.LlamaConfig(
        vocab_size=96, num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=64,
        **sizes,
    )  # fmt: skip
    model = _write(hf.LlamaForCausalLM(config), folder, seed)
    write_tokenizer(folder)
    return model


@dataclass(frozen=True)
class Served:
    """What runs, and transformers' models by entry and version."""

    serving: Serving
    log: Path
    models: Mapping[tuple[str, str], Any]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    base = tmp_path_factory.mktemp("versions")
    root, sources = base / "models", base / "sources"
    found = {("one", "1"): _encoder(sources / "a", 1), ("one", "2"): _encoder(sources / "b", 2)}
    # WeightMap in the versions' folders, and nothing said about them.
    entry = _entry(root, "one", sources / "a", None, ALL)
    shutil.copytree(sources / "a", entry / "1", dirs_exist_ok=True)
    shutil.copytree(sources / "b", entry / "2", dirs_exist_ok=True)
    # WeightMap beside the config for all versions but the one that has its own.
    entry = _entry(root, "beside", sources / "b", ".", ALL)
    shutil.copytree(sources / "b", entry, dirs_exist_ok=True)
    shutil.copytree(sources / "a", entry / "1", dirs_exist_ok=True)
    found |= {("beside", "1"): found["one", "1"], ("beside", "2"): found["one", "2"]}
    # A folder within each version; only the latest is served, as Triton does unless told otherwise.
    found |= {("named", v): _decoder(sources / v, int(v)) for v in ("1", "2")}
    entry = _entry(root, "named", sources / "1", "weights")
    for version in ("1", "2"):
        shutil.copytree(sources / version, entry / version / "weights")
    other_models.write(root)
    shutil.rmtree(sources)
    log = base / "server.log"
    with serving(base, f"--repository={root}", f"--log-file={log}", "--host=0.0.0.0",
                 ATOLL_MAX_BATCH_TOTAL_TOKENS="256") as server:  # fmt: skip
        yield Served(server, log, found)
        server.stop(signal.SIGINT)


def _post(served: Served, port: str, path: str, body: Any) -> httpx.Response:
    return httpx.post(f"{served.serving.url(port)}{path}", json=body, timeout=60)


@pytest.mark.parametrize("port", ["port", "http-port"])
@pytest.mark.parametrize("name", ["one", "beside"])
def test_each_version_runs_its_own_weights(served: Served, name: str, port: str) -> None:
    """All of them ran what model_id said. By the gateway and by Triton itself."""
    ids = [2, 40, 41, 42, 3]
    tensor = {"name": "input_ids", "datatype": "INT32", "shape": [1, len(ids)], "data": ids}
    for version in ("1", "2", ""):
        path = f"/v2/models/{name}{f'/versions/{version}' if version else ''}/infer"
        answer = _post(served, port, path, {"inputs": [tensor]}).json()
        (data,) = [o["data"] for o in answer["outputs"] if o["name"] == "embedding"]
        with torch.inference_mode():
            model = served.models[name, version or "2"]
            hidden = model(torch.tensor([ids])).last_hidden_state[0, 0]
        wanted = torch.nn.functional.normalize(hidden, dim=0).numpy()
        np.testing.assert_allclose(data, wanted, atol=2e-5)
        assert answer["model_version"] == (version or "2")


def test_a_generator_runs_the_latest(served: Served) -> None:
    """As Triton does unless the entry has a version_policy."""
    ids = [5, 17, 40, 8]
    parameters = {"max_tokens": 6, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    wanted = list(ids)
    with torch.inference_mode():
        for _ in range(6):
            model = served.models["named", "2"].double()
            wanted.append(int(model(torch.tensor([wanted])).logits[0, -1].argmax()))
    body = {"text_input": "", "input_ids": ids, "parameters": parameters}
    for path in ("/v2/models/named/generate", "/v2/models/named/versions/2/generate"):
        answer = _post(served, "port", path, body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["token_ids"] == wanted[len(ids) :]
    answer = _post(served, "port", "/v2/models/named/versions/1/generate", body)
    assert answer.status_code in (400, 404) and "version" in answer.json()["error"]


def test_table_and_log_say_what_each_version_runs(served: Served) -> None:
    printed, logged = served.serving.log.read_text(), served.log.read_text()
    for version in ("1", "2"):
        assert f"one, version {version}, runs " in logged
        assert f"one, version {version} " in printed and f"beside, version {version} " in printed
    assert "models/one/1" in logged and "models/one/2" in logged
    assert "beside, version 2, runs" in logged and "as does every version without" in logged
    assert "named, version 1" not in printed
    for phase in ("process", "weights", "warm-up"):
        assert f"starting: one, version 2: {phase}\n" in printed
    assert re.search(r"^one, version 2: process \d+\.\d s", printed, re.MULTILINE)


def test_info_says_which_version_answers(served: Served) -> None:
    for version in ("1", "2"):
        body = {"inputs": [], "parameters": {"control": json.dumps({"op": "info"})}}
        body["inputs"] = [
            {"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": [""]}
        ]
        answer = _post(served, "http-port", f"/v2/models/one/versions/{version}/infer", body).json()
        (told,) = [o["data"][0] for o in answer["outputs"] if o["name"] == "control"]
        facts = json.loads(told)
        assert facts["model_version"] == version
        assert facts["model_id"].endswith(f"/models/one/{version}")


def test_models_that_are_not_ours_are_served_beside_ours(served: Served) -> None:
    """Shown as what they are, on KServe's routes, and on none of the others."""
    printed = served.serving.log.read_text()
    for name, kind in (("echo", "not ours"), ("chain", "ensemble"), ("repeat", "not ours")):
        assert f"{name} " in printed and kind in printed
    numbers = {"name": "IN", "datatype": "INT32", "shape": [1], "data": [7]}
    answer = _post(served, "port", "/v2/models/batched/infer", _batched()).json()
    assert answer["outputs"][0]["data"] == [0.5, 1.5, 2.5, 3.5]
    answer = _post(served, "port", "/v2/models/chain/infer", {"inputs": [numbers]})
    assert answer.status_code == 501 and "decoupled" in answer.text
    models = httpx.get(f"{served.serving.url()}/v1/models", timeout=60).json()["data"]
    assert {one["id"] for one in models} >= {"one", "beside", "named"}
    assert not {one["id"] for one in models} & {"echo", "batched", "chain", "repeat", "sequence"}
    answer = _post(served, "port", "/v1/embeddings", {"model": "echo", "input": "a reef"})
    assert answer.status_code == 404 and "echo" in answer.text


def test_only_the_gateway_listens_on_every_network(served: Served) -> None:
    """``--host 0.0.0.0`` opened Triton's ports, too, which ask for no key."""

    def addresses(process: psutil.Process) -> dict[int, str]:
        found = [c.laddr for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        return {address.port: address.ip.removeprefix("::ffff:") for address in found}

    server, ports = served.serving, served.serving.ports
    triton = [ports[name] for name in ("http-port", "grpc-port", "metrics-port")]
    assert addresses(server.tritonserver) == dict.fromkeys(triton, "127.0.0.1")
    listening = dict[int, str]()
    for process in psutil.Process(server.process.pid).children():
        listening |= addresses(process)
    assert listening[ports["port"]] == "0.0.0.0"
    assert listening[ports["gateway-grpc-port"]] in ("0.0.0.0", "::")


def test_a_repository_without_any_model_of_ours(tmp_path: Path) -> None:
    """The gateway was never ready: it waited for a model of Atoll's. All that is printed is JSON,
    and says how long each phase took."""
    other_models.write(tmp_path / "models")
    arguments = (f"--repository={tmp_path / 'models'}", "--log-format=json")
    with serving(tmp_path, *arguments, ATOLL_LOG_LEVEL="info") as server:
        printed = server.log.read_text()
        logged = [json.loads(line) for line in printed.splitlines()]
        assert {one["process"] for one in logged} >= {"launcher", "tritonserver"}
        (ready,) = (one for one in logged if one.get("event") == "ready")
        took = {(one["model"], one["phase"]): one["seconds"] for one in ready["phases"]}
        assert took["", "server"] > 0 and took["echo", "first answer"] >= 0
        assert sum(took.values()) > 0 and ready["gateway"] == server.url()
        assert "not ours" in printed and "ensemble" in printed
        answer = httpx.post(f"{server.url()}/v2/models/batched/infer", json=_batched(), timeout=60)
        assert answer.json()["outputs"][0]["data"] == [0.5, 1.5, 2.5, 3.5]
        assert httpx.get(f"{server.url()}/health", timeout=60).status_code == 200
        assert httpx.get(f"{server.url()}/v1/models", timeout=60).json()["data"] == []
        answer = httpx.post(f"{server.url()}/embed", json={"inputs": "x"}, timeout=60)
        assert answer.status_code in (404, 424)
        server.stop(signal.SIGTERM)


def _batched() -> dict[str, Any]:
    numbers = {"name": "IN", "datatype": "FP32", "shape": [1, 4], "data": [0.5, 1.5, 2.5, 3.5]}
    texts = {"name": "TIN", "datatype": "BYTES", "shape": [1, 4], "data": list("abcd")}
    return {"inputs": [numbers, texts], "outputs": [{"name": "OUT"}]}
