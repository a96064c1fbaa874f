"""KServe over HTTP: inferences in JSON and with binary tensors, and the routes about models."""

from __future__ import annotations

import json
import struct
from typing import Any

from hypothesis import strategies as st

from fuzzing import target
from fuzzing.shot import HttpShot
from fuzzing.values import changed, damaged_json

_KINDS = ("BYTES", "FP32", "INT32", "INT64", "BOOL", "FP16", "UINT8", "nope", "")
_SHAPES: list[list[int]] = [
    [1], [1, 1], [2, 1], [0], [], [1, 0], [-1], [1, 2**31], [2**62, 4], [3], [1, 1, 1], [300, 1],
]  # fmt: skip
_SIZES = (-1, 0, 1, 4, 7, 2**31, 2**40, 2**63 - 1)
_PARAMETERS: list[dict[str, Any]] = [
    {}, {}, {"sequence_id": 1}, {"sequence_id": "x" * 300, "sequence_start": True},
    {"priority": 2**40}, {"timeout": 1}, {"timeout": -1}, {"binary_data_output": True},
    {"triton_enable_empty_final_response": True}, {"max_tokens": 2}, {"x": None}, {"x": [1]},
    {"normalize": False}, {"control": "{}"}, {"temperature": "hot"}, {"classification": 2},
]  # fmt: skip


def _tensor(name: str, data: Any, kind: str = "BYTES", shape: Any = None) -> dict[str, Any]:
    return {"name": name, "datatype": kind, "shape": shape or [len(data), 1], "data": data}


def _generator(name: str) -> list[dict[str, Any]]:
    options = '{"max_tokens": 3, "temperature": 0}'
    return [_tensor("text_input", ["an atoll"], shape=[1]),
            _tensor(name, [options], shape=[1])]  # fmt: skip


# Requests that are right, by model.
INPUTS: dict[str, list[dict[str, Any]]] = {
    target.EMBEDDER: [_tensor("text_input", ["an atoll", "a reef"])],
    target.ENSEMBLE: [_tensor("text_input", ["an atoll"])],
    f"{target.EMBEDDER}-tokens": [_tensor("text_input", ["an atoll"])],
    target.CLASSIFIER: [_tensor("text_input", ["an atoll"])],
    target.ENTITIES: [_tensor("text_input", ["an atoll"])],
    target.RERANKER: [_tensor("query", ["sea"], shape=[1]),
                      _tensor("documents", ["a", "b"], shape=[2])],
    target.SEARCH: [_tensor("query", ["sea"], shape=[1]),
                    _tensor("documents", ["a", "b"], shape=[2])],
    target.GENERATOR: _generator("sampling_parameters"),
    target.SPEECH: [_tensor("audio", [0.0] * 800, "FP32", [800])],
    f"{target.GENERATOR}-session": [_tensor("text_input", ["hello"], shape=[1]),
                                    _tensor("session_id", ["s"], shape=[1])],
}  # fmt: skip
_PATHS = (
    "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/{m}", "/v2/models/{m}/ready",
    "/v2/models/{m}/config", "/v2/models/{m}/stats", "/v2/models/stats", "/v2/repository/index",
    "/v2/models/{m}/versions/{v}", "/v2/models/{m}/versions/{v}/infer", "/v2/trace/setting",
    "/v2/logging", "/v2/systemsharedmemory/status", "/v2/cudasharedmemory/status",
    "/v2/systemsharedmemory/region/x/register", "/v2/systemsharedmemory/unregister",
    "/v2/repository/models/{m}/load", "/v2/repository/models/{m}/unload", "/v2/nope",
    "/v2/models/{m}/trace/setting", "/v2/models/{m}/generate", "/metrics",
)  # fmt: skip
_VERSIONS = ("1", "2", "-1", "x", "9" * 30, "%00")
_OPERATIONS = ("infer", "infer", "infer", "generate", "generate_stream")


@st.composite
def kserve_http(draw: st.DrawFn, port: str) -> HttpShot:
    """One request. port: of the gateway, or Triton's own."""
    headers = {"content-type": "application/json"}
    if port == "port":
        headers["authorization"] = f"Bearer {target.KEY}"
    model = draw(st.sampled_from([*INPUTS, *INPUTS, "nobody"]))
    if draw(st.integers(0, 4)) == 4:
        path = draw(st.sampled_from(_PATHS))
        path = path.replace("{m}", model).replace("{v}", draw(st.sampled_from(_VERSIONS)))
        content = draw(damaged_json(draw(changed({"shm_size": 1}, {}))))
        # Which models are loaded is not for these ports to say.
        method = draw(st.sampled_from(["GET", "POST", "DELETE"]))
        return HttpShot(port, method, path, headers, content if method == "POST" else b"")
    operation = draw(st.sampled_from(_OPERATIONS))
    path = f"/v2/models/{model}/{operation}"
    if operation != "infer":
        body = {"text_input": "an atoll", "max_tokens": 2, "parameters": {"temperature": 0}}
        return HttpShot(port, "POST", path, headers, draw(damaged_json(draw(changed(body, {})))))
    body = {"id": "a", "inputs": INPUTS.get(model, INPUTS[target.EMBEDDER]),
            "parameters": draw(st.sampled_from(_PARAMETERS))}  # fmt: skip
    if draw(st.booleans()):
        return _binary(draw, HttpShot(port, "POST", path, headers), body)
    return HttpShot(port, "POST", path, headers, draw(damaged_json(draw(changed(body, {})))))


def _binary(draw: st.DrawFn, shot: HttpShot, body: dict[str, Any]) -> HttpShot:
    """With tensors behind the JSON, whose sizes are right or not."""
    inputs, tail = [], b""
    for one in body["inputs"]:
        raw = packed(one["datatype"], one["data"])
        named = {k: one[k] for k in ("name", "datatype", "shape")}
        if draw(st.integers(0, 2)) == 0:
            named["shape"] = draw(st.sampled_from(_SHAPES))
        if draw(st.integers(0, 4)) == 0:
            named["datatype"] = draw(st.sampled_from(_KINDS))
        if draw(st.integers(0, 4)) == 0:
            raw = draw(st.binary(max_size=20))
        size = draw(st.sampled_from([len(raw)] * 4 + [*_SIZES]))
        inputs.append(named | {"parameters": {"binary_data_size": size}})
        tail += raw
    head = json.dumps(draw(changed(body | {"inputs": inputs}, {}, most=1)))
    raw_head = head.encode("utf-8", "surrogatepass")
    length = draw(st.sampled_from([len(raw_head)] * 6 + [*_SIZES, len(raw_head) + len(tail)]))
    headers = {**shot.headers, "inference-header-content-length": str(length),
               "content-type": "application/octet-stream"}  # fmt: skip
    return HttpShot(shot.port, "POST", shot.path, headers, raw_head + tail)


def packed(datatype: str, data: list[Any]) -> bytes:
    """A tensor's bytes, as both protocols send them."""
    if datatype == "FP32":
        return struct.pack(f"<{len(data)}f", *data)
    texts = [str(one).encode() for one in data]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)
