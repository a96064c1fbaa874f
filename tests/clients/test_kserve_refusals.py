"""KServe over HTTP at the gateway: bodies that are wrong are refused by name."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import httpx
import pytest
from gateways import Others
from other_models import TWO


def test_binary_data_that_does_not_fit(others: Others) -> None:
    def ask(head: Any, rest: bytes, **headers: str) -> httpx.Response:
        raw = json.dumps(head).encode()
        sizes = {"Inference-Header-Content-Length": str(len(raw)), **headers}
        return httpx.post(
            f"{others.url}/v2/models/echo/infer", content=raw + rest, headers=sizes, timeout=60
        )

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
    answer = httpx.post(
        f"{others.url}/v2/models/echo/infer", json={"inputs": [TWO], **change}, timeout=60
    )
    assert answer.status_code == 400 and error in answer.json()["error"], answer.text


def test_numbers_of_many_digits(others: Others) -> None:
    """JavaScript writes floating-point numbers so; as a parameter 2**64 + 1 became another one."""
    values = [12345678901234567168, 2**64 + 1, 10**300, -(10**25), 123456789012345670000]
    tensor = {"name": "IN_FP64", "datatype": "FP64", "shape": [5], "data": values}
    answer = httpx.post(f"{others.url}/v2/models/echo/infer", json={"inputs": [tensor]}, timeout=60)
    found = {output["name"]: output for output in answer.json()["outputs"]}
    assert found["OUT_FP64"]["data"] == [float(value) for value in values]
    for end in ("generate", "generate_stream"):
        body = {"IN_INT32": [1, 2], "parameters": {"seed": 2**64 + 1}}
        answer = httpx.post(f"{others.url}/v2/models/echo/{end}", json=body, timeout=60)
        assert answer.status_code == 400, answer.text
        assert "'seed' is 18446744073709551617, beyond 64 bits" in answer.json()["error"]


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
        assert httpx.post(url, content=body, headers=headers, timeout=60).status_code == status, (
            encoding
        )


def test_what_is_closed_is_refused_by_name(others: Others) -> None:
    for path, name in (
        ("systemsharedmemory/status", "system shared memory"),
        ("systemsharedmemory/region/x/register", "system shared memory"),
        ("cudasharedmemory/region/x/unregister", "CUDA shared memory"),
        ("trace/setting", "trace"), ("models/echo/trace/setting", "trace"), ("logging", "log"),
        ("repository/models/echo/load", "loading"), ("repository/models/echo/unload", "loading"),
    ):  # fmt: skip
        for method in ("GET", "POST"):
            answer = httpx.request(method, f"{others.url}/v2/{path}", timeout=60)
            assert answer.status_code == 403 and name in answer.json()["error"], path
    assert httpx.get(f"{others.url}/v2/models/echo/ready", timeout=60).status_code == 200
