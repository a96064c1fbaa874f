"""KServe over HTTP at the gateway: Triton's own client, unmodified, and any model."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from gateways import Others
from other_models import KINDS, NUMBERS
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

TWO = {"name": "IN_INT32", "datatype": "INT32", "shape": [2], "data": [1, 2]}


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
            mine, its = httpx.get(others.url + path).json(), None
            its = httpx.get(others.server.http_url + path).json()
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
        httpx.request(method, url + path, json=body) for url in (others.url, others.server.http_url)
    ]
    assert both[0].status_code == both[1].status_code
    assert both[0].json() == both[1].json()


def test_classes(others: Others) -> None:
    def ask(model: str, inputs: list[Any], output: str, count: int = 2) -> Any:
        outputs = [{"name": output, "parameters": {"classification": count}}]
        body = {"inputs": inputs, "outputs": outputs}
        return httpx.post(f"{others.url}/v2/models/{model}/infer", json=body)

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
        answer = httpx.post(f"{others.url}/v2/models/{model}/generate_stream", json=body)
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
        answer = httpx.post(f"{others.url}/v2/models/{model}/generate", json=body)
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


def test_binary_data_that_does_not_fit(others: Others) -> None:
    def ask(head: Any, rest: bytes, **headers: str) -> httpx.Response:
        raw = json.dumps(head).encode()
        sizes = {"Inference-Header-Content-Length": str(len(raw)), **headers}
        return httpx.post(f"{others.url}/v2/models/echo/infer", content=raw + rest, headers=sizes)

    def tensor(size: Any, shape: Any = (2,), **more: Any) -> Any:
        return {
            "name": "IN_INT32", "datatype": "INT32", "shape": list(shape),
            "parameters": {"binary_data_size": size}, **more,
        }  # fmt: skip

    eight = b"\1\0\0\0\2\0\0\0"
    good = ask({"inputs": [tensor(8)], "outputs": [{"name": "OUT_INT32"}]}, eight)
    assert good.json()["outputs"][0]["data"] == [1, 2]
    text = {"name": "IN_STRING", "datatype": "BYTES", "shape": [2]}
    cut = {**text, "parameters": {"binary_data_size": 8}}
    for head, rest, error in (
        ({"inputs": [tensor(8)]}, eight[:7], "7 bytes of binary data are left"),
        ({"inputs": [tensor(8)]}, eight + b"x", "unexpected additional input data"),
        ({"inputs": [tensor(8, [3])]}, eight, "has 8 bytes of data; INT32 in the shape [3] has 12"),
        ({"inputs": [tensor(-1)]}, eight, "'binary_data_size' is -1"),
        ({"inputs": [tensor(True)]}, eight, "'binary_data_size' is True"),
        ({"inputs": [tensor(8, data=[1, 2])]}, eight, "one is right"),
        ({"inputs": [tensor(8, [1, 2**40])]}, eight, "a dimension of 1099511627776"),
        ({"inputs": [tensor(8, [-2])]}, eight, "a dimension of -2"),
        ({"inputs": [tensor(0, [0, 2**31 - 1, 2**31 - 1])]}, b"", "the limit is 2147483647"),
        ({"inputs": [tensor(8, [1] * 17 + [2])]}, eight, "has 18 dimensions; the limit is 16"),
        ({"inputs": [tensor(0)]}, b"", "has 0 bytes of data"),
        ({"inputs": [cut]}, b"\3\0\0\0abc\0", "has data for 1 elements; its shape [2] has 2"),
        ({"inputs": [cut]}, b"\0\0\0\0\1\0\0\0", "its 2 elements end at 9"),
        ({"inputs": [cut]}, b"\xff\xff\xff\xff\0\0\0\0", "has data for 1 elements"),
    ):
        answer = ask(head, rest)
        assert answer.status_code == 400 and error in answer.json()["error"], (head, answer.text)
    for length in ("x", "-1", "9" * 30, "1e3", ""):
        answer = ask({"inputs": [TWO]}, b"", **{"Inference-Header-Content-Length": length})
        assert answer.status_code == 400, length
    assert "more bytes" in ask({}, b"", **{"Inference-Header-Content-Length": "99"}).text


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"inputs": [{**TWO, "data": [1, 2.5]}]}, "has the value '2.5' (float)"),
        ({"inputs": [{**TWO, "data": [1, None]}]}, "has the value 'None'"),
        ({"inputs": [{**TWO, "data": [1, True]}]}, "has the value 'True' (bool)"),
        ({"inputs": [{**TWO, "data": [1, 2**31]}]}, "beyond the range of INT32: 2147483648"),
        ({"inputs": [{**TWO, "data": [[1], [2]]}]}, "Shape does not match"),
        ({"inputs": [{**TWO, "data": [1, [2]]}]}, "Shape does not match"),
        ({"inputs": [{**TWO, "data": {}}]}, "Shape does not match"),
        ({"inputs": [{**TWO, "shape": [True]}]}, "Unable to parse 'shape'"),
        ({"inputs": [{**TWO, "shape": [2.0]}]}, "Unable to parse 'shape'"),
        ({"inputs": [{**TWO, "shape": [18446744073709551616]}]}, "a dimension of 18446744073709"),
        ({"inputs": [{**TWO, "data": [1, 2**64 + 1]}]}, "range of INT32: 18446744073709551617"),
        ({"inputs": [{**TWO, "parameters": {"a": 2**70}}]}, "'a' is 1180591620717411303424, bey"),
        ({"parameters": {"a": -(2**63) - 1}}, "'a' is -9223372036854775809, beyond 64 bits"),
        ({"parameters": {"a": 10**30}}, "beyond 64 bits"),
        ({"parameters": {"timeout": 2**64}}, "'timeout' is 18446744073709551616, beyond 64 bits"),
        ({"parameters": {"sequence_id": 2**64 + 5}}, "'sequence_id' is 18446744073709551621, bey"),
        ({"parameters": {"priority": 2**64}}, "'priority' is 18446744073709551616, beyond 64"),
        ({"id": 10**25}, "Unable to parse 'id'"),
        ({"inputs": [{**TWO, "shape": "2"}]}, "Unable to parse 'shape'"),
        ({"inputs": [TWO, TWO]}, "input 'IN_INT32' is there more than once"),
        ({"inputs": [{**TWO, "surprise": 1}]}, "has no field 'surprise'"),
        ({"inputs": {}}, "Unable to parse 'inputs'"),
        ({"inputs": [1]}, "Unable to parse 'inputs'"),
        ({"outputs": [{"name": "OUT_INT32"}] * 2}, "output 'OUT_INT32' is there more than once"),
        ({"outputs": [{"name": "OUT_INT32", "parameters": {"x": 1}}]}, "no parameter 'x'"),
        ({"surprise": 1}, "has no field 'surprise'"),
        ({"id": 5}, "Unable to parse 'id'"),
        ({"id": "a\0b"}, "id holds a zero character"),
        ({"parameters": {"sequence_id": "x" * 129}}, "sequence_id has 129 bytes"),
        ({"parameters": {"sequence_start": 1}}, "expected bool_param"),
        ({"parameters": {"priority": -1}}, "expected value >= 0"),
        ({"parameters": {"timeout": "1"}}, "expected int64_param"),
        ({"parameters": {"a": [1]}}, "parameter 'a' has invalid type"),
        ({"parameters": {"a": 2**64 - 1}}, "beyond 64 bits"),
        ({"parameters": {"triton_enable_empty_final_response": True}}, "reserved"),
        ({"parameters": {"triton_x": 1}}, "reserved"),
        ({"parameters": {"shared_memory_region": "x"}}, "shared memory is not offered"),
        (
            {"inputs": [{**TWO, "parameters": {"shared_memory_region": "x"}}]},
            "input 'IN_INT32': parameter 'shared_memory_region': shared memory is not offered",
        ),
        (
            {"outputs": [{"name": "OUT_INT32", "parameters": {"shared_memory_region": "x"}}]},
            "shared memory is not offered",
        ),
        (
            {"inputs": [{"name": "IN_FP32", "datatype": "FP32", "shape": [1], "data": [1e39]}]},
            "beyond the range of FP32",
        ),
        (
            {"inputs": [{"name": "IN_FP16", "datatype": "FP16", "shape": [1], "data": [1]}]},
            "FP16 data",
        ),
    ],
)  # fmt: skip
def test_requests_that_are_refused_by_name(others: Others, change: Any, error: str) -> None:
    answer = httpx.post(f"{others.url}/v2/models/echo/infer", json={"inputs": [TWO], **change})
    assert answer.status_code == 400 and error in answer.json()["error"], answer.text


def test_numbers_of_many_digits(others: Others) -> None:
    """JavaScript writes floating-point numbers so; as a parameter 2**64 + 1 became another one."""
    values = [12345678901234567168, 2**64 + 1, 10**300, -(10**25), 123456789012345670000]
    tensor = {"name": "IN_FP64", "datatype": "FP64", "shape": [5], "data": values}
    answer = httpx.post(f"{others.url}/v2/models/echo/infer", json={"inputs": [tensor]})
    found = {output["name"]: output for output in answer.json()["outputs"]}
    assert found["OUT_FP64"]["data"] == [float(value) for value in values]
    for end in ("generate", "generate_stream"):
        body = {"IN_INT32": [1, 2], "parameters": {"seed": 2**64 + 1}}
        answer = httpx.post(f"{others.url}/v2/models/echo/{end}", json=body)
        assert answer.status_code == 400, answer.text
        assert "'seed' is 18446744073709551617, beyond 64 bits" in answer.json()["error"]


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


def test_packed_bodies_that_are_wrong(others: Others) -> None:
    raw = json.dumps({"inputs": [TWO]}).encode()
    bomb = gzip.compress(b"0" * 100_000_000)
    for encoding, body, status in (
        ("gzip", raw, 400), ("gzip", gzip.compress(raw)[:-4], 400), ("br", raw, 400),
        ("gzip", gzip.compress(raw) + b"x", 400), ("deflate", gzip.compress(raw), 400),
        ("gzip", bomb, 413), ("deflate", zlib.compress(raw), 200), ("identity", raw, 200),
    ):  # fmt: skip
        headers = {"content-encoding": encoding}
        url = f"{others.url}/v2/models/echo/infer"
        assert httpx.post(url, content=body, headers=headers).status_code == status, encoding


def test_what_is_closed_is_refused_by_name(others: Others) -> None:
    for path, name in (
        ("systemsharedmemory/status", "system shared memory"),
        ("systemsharedmemory/region/x/register", "system shared memory"),
        ("cudasharedmemory/region/x/unregister", "CUDA shared memory"),
        ("trace/setting", "trace"), ("models/echo/trace/setting", "trace"), ("logging", "log"),
        ("repository/models/echo/load", "loading"), ("repository/models/echo/unload", "loading"),
    ):  # fmt: skip
        for method in ("GET", "POST"):
            answer = httpx.request(method, f"{others.url}/v2/{path}")
            assert answer.status_code == 403 and name in answer.json()["error"], path
    assert httpx.get(f"{others.url}/v2/models/echo/ready").status_code == 200


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
    refused = httpx.post(f"{url}/echo/infer", content=b"\1\0\0\0", headers=raw)
    assert refused.status_code == 400 and "must only have 1 input" in refused.text
    answer = httpx.post(f"{url}/sequence/infer", content=b"\1\0\0\0", headers=start)
    assert answer.status_code == 400 and "must specify" in answer.json()["error"].lower()
