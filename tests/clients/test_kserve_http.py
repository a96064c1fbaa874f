"""KServe over HTTP at the gateway: Triton's own client, unmodified, and any model."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from gateways import Others
from other_models import KINDS, NUMBERS, TWO
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


@pytest.fixture(scope="module")
def client(others: Others) -> Any:
    with triton.InferenceServerClient(others.host, concurrency=2) as client:
        yield client


def _inputs(module: Any, kinds: Any = KINDS, **binary: bool) -> list[Any]:
    found = []
    for kind in kinds:
        array = NUMBERS[kind]
        made = module.InferInput(f"IN_{kind}", array.shape, np_to_triton_dtype(array.dtype))
        is_binary = binary.get("binary_data", True) or kind == "FP16"
        found.append(made.set_data_from_numpy(array, binary_data=is_binary))
    return found


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_every_datatype_comes_back_as_it_was(
    client: Any, is_binary: bool, packed: str | None
) -> None:
    outputs = [
        triton.InferRequestedOutput(f"OUT_{kind}", binary_data=is_binary or kind == "FP16")
        for kind in KINDS
    ]
    found = client.infer(
        "echo", _inputs(triton, binary_data=is_binary), outputs=outputs, request_id="mine",
        request_compression_algorithm=packed, response_compression_algorithm=packed,
    )  # fmt: skip
    assert found.get_response()["id"] == "mine"
    for kind in KINDS:
        got, given = found.as_numpy(f"OUT_{kind}"), NUMBERS[kind]
        if kind == "STRING" and not is_binary:
            got = np.array([text.encode() for text in got], dtype=object)
        assert got.dtype == given.dtype and got.tolist() == given.tolist(), kind


def test_parameters_reach_the_model(client: Any) -> None:
    parameters = {"a": 1, "b": 1.5, "c": "text", "d": True, "e": -(2**63)}
    for sequence in (7, "a text", 2**64 - 1):
        found = client.infer(
            "echo", _inputs(triton, ["INT8"]), request_id="r", sequence_id=sequence,
            sequence_start=True, sequence_end=True, timeout=5_000_000, parameters=parameters,
        )  # fmt: skip
        told = json.loads(found.as_numpy("TOLD")[0])
        assert told == {
            "parameters": parameters, "id": "r", "sequence": sequence, "flags": 3,
            "timeout": 5_000_000,
        }  # fmt: skip


def test_sequences(client: Any) -> None:
    def ask(sequence: int | str, value: int, **flags: bool) -> int:
        tensor = triton.InferInput("IN", [1], "INT32")
        tensor.set_data_from_numpy(np.array([value], np.int32))
        found = client.infer("sequence", [tensor], sequence_id=sequence, **flags)
        return int(found.as_numpy("OUT")[0])

    # One after the other: the model has room for one.
    for sequence in (5, "five", 2**64 - 2):
        sums = [ask(sequence, 1, sequence_start=True), ask(sequence, 2)]
        assert [*sums, ask(sequence, 3, sequence_end=True)] == [1, 3, 6]
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        ask("five", 1)


def test_what_a_client_asks_about_server_and_models(client: Any, others: Others) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("echo")
    assert not client.is_model_ready("nix") and not client.is_model_ready("echo", "2")
    about = client.get_server_metadata()
    assert about["name"] == "triton" and "binary_tensor_data" in about["extensions"]
    assert not {"system_shared_memory", "logging", "trace"} & set(about["extensions"])
    index = {one["name"]: one["state"] for one in client.get_model_repository_index()}
    assert index == dict.fromkeys(("batched", "chain", "echo", "repeat", "sequence"), "READY")
    for model in index:
        for end in ("", "/config", "/stats", "/versions/1", "/versions/1/config"):
            path = f"/v2/models/{model}{end}"
            mine, its = httpx.get(others.url + path, timeout=60).json(), None
            its = httpx.get(others.server.http_url + path, timeout=60).json()
            assert _known(mine, its) == its, path
    stats = client.get_inference_statistics("batched")["model_stats"][0]
    assert (stats["name"], type(stats["inference_count"])) == ("batched", int)


def _known(mine: Any, its: Any) -> Any:
    """Without fields of a newer schema, which an older server does not know."""
    if isinstance(its, dict):
        return {key: _known(mine[key], its[key]) for key in its}
    if isinstance(its, list) and len(mine) == len(its):
        return [_known(one, other) for one, other in zip(mine, its, strict=True)]
    return mine


SAME: list[tuple[str, str, Any]] = [
    ("POST", "/v2/models/nix/infer", {"inputs": [TWO]}),
    ("POST", "/v2/models/echo/versions/9/infer", {"inputs": [TWO]}),
    ("POST", "/v2/models/repeat/infer", {"inputs": []}),
    ("POST", "/v2/models/echo/infer", {"inputs": [{**TWO, "datatype": "FP32"}]}),
    ("POST", "/v2/models/echo/infer", {"inputs": [{**TWO, "name": "NIX"}]}),
    ("POST", "/v2/models/echo/infer", {"inputs": [TWO], "outputs": [{"name": "NIX"}]}),
    ("POST", "/v2/models/echo/infer", {"inputs": []}),
    ("POST", "/v2/models/batched/infer",
     {"inputs": [{"name": "IN", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}),
    ("POST", "/v2/models/sequence/infer",
     {"inputs": [{"name": "IN", "datatype": "INT32", "shape": [1], "data": [1]}]}),
    ("POST", "/v2/models/batched/generate", {"IN": [1, 2, 3], "TIN": ["a", "b", "c", "d"]}),
    ("POST", "/v2/models/batched/generate", {"IN": [1, 2, 3, 4.5], "TIN": ["a", "b", "c", "d"]}),
    ("POST", "/v2/models/repeat/generate", {"IN": [4], "id": "mine"}),
    ("GET", "/v2/models/nix", None),
    ("GET", "/v2/models/nix/config", None),
    ("GET", "/v2/models/nix/ready", None),
    ("GET", "/v2/models/echo/versions/2/ready", None),
    ("GET", "/v2/models/echo/versions/2", None),
]  # fmt: skip


@pytest.mark.parametrize("case", SAME, ids=lambda case: case[1])
def test_answers_are_triton_s_own(others: Others, case: tuple[str, str, Any]) -> None:
    method, path, body = case
    both = [
        httpx.request(method, url + path, json=body, timeout=60)
        for url in (others.url, others.server.http_url)
    ]
    assert both[0].status_code == both[1].status_code
    assert both[0].json() == both[1].json()


def test_classes(others: Others) -> None:
    def ask(model: str, inputs: list[Any], output: str, count: int = 2) -> Any:
        outputs = [{"name": output, "parameters": {"classification": count}}]
        body = {"inputs": inputs, "outputs": outputs}
        return httpx.post(f"{others.url}/v2/models/{model}/infer", json=body, timeout=60)

    four = [
        {"name": "IN", "datatype": "FP32", "shape": [2, 4], "data": [5, 2.5, 3, 4, 1, 1, 9, -1]},
        {"name": "TIN", "datatype": "BYTES", "shape": [2, 4], "data": ["a"] * 8},
    ]
    found = ask("batched", four, "OUT").json()["outputs"][0]
    expected = ["5.000000:0", "4.000000:3", "9.000000:2", "1.000000:0"]
    assert (found["shape"], found["datatype"], found["data"]) == ([2, 2], "BYTES", expected)
    found = ask("echo", [TWO], "OUT_INT32", 9).json()["outputs"][0]
    assert (found["shape"], found["data"]) == ([2], ["2:1", "1:0"])
    # A server divides by the size of an element, which a text has not.
    refused = ask("batched", four, "TOUT")
    assert (refused.status_code, "unsupported type 'BYTES'" in refused.text) == (400, True)
    assert ask("echo", [TWO], "OUT_INT32", -1).status_code == 400


def test_generate_and_its_events(others: Others) -> None:
    def stream(model: str, body: Any) -> list[Any]:
        answer = httpx.post(
            f"{others.url}/v2/models/{model}/generate_stream", json=body, timeout=60
        )
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [json.loads(event[6:]) for event in answer.text.split("\n\n") if event]

    events = stream("repeat", {"IN": [1, 2, -3], "id": "u"})
    same = {"id": "u", "model_name": "repeat", "model_version": "1"}
    assert events == [{**same, "OUT": 1}, {**same, "OUT": 2}, {"error": "negative: -3"}]
    assert [event["OUT"] for event in stream("chain", {"IN": [7, 8]})] == [7, 8]
    (only,) = stream("echo", {"IN_STRING": ["a", "b"], "parameters": {"x": 1}, "y": True})
    assert only["OUT_STRING"] == ["a", "b"]
    assert json.loads(only["TOLD"])["parameters"] == {"x": 1, "y": True}

    def refused(body: Any, model: str = "repeat") -> tuple[int, str]:
        answer = httpx.post(f"{others.url}/v2/models/{model}/generate", json=body, timeout=60)
        return answer.status_code, answer.json()["error"]

    for body, text in (
        ({"IN": [1, 2]}, "exactly 1 response"),
        ({"IN": []}, "exactly 1 response"),
        ({"IN": [[1]]}, "has the value '[1]'"),
        ({"IN": [1], "other": {}}, "parameter 'other' has invalid type"),
        ({"WAIT": 1.5}, "missing required input(s) ['IN']"),
        ({"IN": [1], "parameters": 3}, "Expected JSON object"),
        ({"IN": [1], "parameters": {"IN": [1]}}, "'IN' is in the request and in its 'parameters'"),
    ):
        status, error = refused(body)
        assert status == 400 and text in error, (body, error)


def test_the_asynchronous_client_and_raw_bodies(others: Others) -> None:
    async def ask() -> Any:
        async with triton_aio.InferenceServerClient(others.host) as client:
            found = await client.infer("echo", _inputs(triton_aio, ["STRING", "INT64"]))
            assert await client.is_model_ready("echo")
            with pytest.raises(InferenceServerException, match="unknown model"):
                await client.infer("nix", _inputs(triton_aio, ["INT8"]))
            return found

    assert asyncio.run(ask()).as_numpy("OUT_INT64").tolist() == NUMBERS["INT64"].tolist()
    raw = {"Inference-Header-Content-Length": "0"}
    start = {**raw}
    url = f"{others.url}/v2/models"
    # A body that is the only input, whose shape its length tells.
    refused = httpx.post(f"{url}/echo/infer", content=b"\1\0\0\0", headers=raw, timeout=60)
    assert refused.status_code == 400 and "must only have 1 input" in refused.text
    answer = httpx.post(f"{url}/sequence/infer", content=b"\1\0\0\0", headers=start, timeout=60)
    assert answer.status_code == 400 and "must specify" in answer.json()["error"].lower()


def test_values_that_json_cannot_hold(others: Others, client: Any) -> None:
    """Triton writes NaN, which is no JSON."""
    for kind, array in (
        ("FP32", np.array([np.nan, 1], np.float32)), ("FP64", np.array([np.inf])),
        ("STRING", np.array([b"\xff"], dtype=object)), ("FP16", np.array([1], np.float16)),
    ):  # fmt: skip
        tensor = triton.InferInput(f"IN_{kind}", array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        with pytest.raises(InferenceServerException, match="binary data format"):
            output = triton.InferRequestedOutput(f"OUT_{kind}", binary_data=False)
            client.infer("echo", [tensor], outputs=[output])
        output = triton.InferRequestedOutput(f"OUT_{kind}", binary_data=True)
        got = client.infer("echo", [tensor], outputs=[output]).as_numpy(f"OUT_{kind}")
        assert got.tobytes() == array.tobytes() or got.tolist() == array.tolist()
