"""F3: bodies and tensors that no client means well with, through the gateway; and what Triton's own
ports, which only this machine reaches, do with some of them."""

from __future__ import annotations

import gzip
import json
import random
import struct
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import httpx
from gateways import EMBEDDER, GENERATOR
from serving import Serving
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

from failing.case import CHAT, EMBED, Case, post, status_of, told, until_answered

_INFER = f"/v2/models/{EMBEDDER}/infer"
_NESTED = b"[" * 150_000
_INT_MAX = 2**31 - 1
_MUTATED = 600


def _json(**tensor: Any) -> bytes:
    whole = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["a"], **tensor}
    return json.dumps({"inputs": [whole]}).encode()


def _binary(shape: list[int], raw: bytes, said: int | None = None) -> tuple[bytes, int]:
    """A request with binary data, and the length of its JSON. said: the length it claims."""
    size = {"binary_data_size": len(raw) if said is None else said}
    head = {"inputs": [{"name": "text_input", "shape": shape, "datatype": "BYTES",
                        "parameters": size}]}  # fmt: skip
    text = json.dumps(head).encode()
    return text + raw, len(text)


_JSON: Mapping[str, bytes] = {
    "a shape of 2**40": _json(shape=[1, 2**40]),
    "a shape of INT_MAX": _json(shape=[_INT_MAX, _INT_MAX]),
    "a shape whose product is 0 modulo 2**64": _json(shape=[2**32, 2**32]),
    "a negative dimension": _json(shape=[-1, 1]),
    "a shape of 10,000 ones": _json(shape=[1] * 10_000),
    "no shape": _json(shape=[]),
    "nested arrays": _NESTED,
    "nested arrays as data": b'{"inputs":[{"name":"text_input","data":' + _NESTED,
    "an unknown type": _json(datatype="FP1024"),
    "data of another type": _json(data=[1, 2.5, None, {}]),
    "a region of shared memory that is not there": _json(
        data=[], parameters={"shared_memory_region": "x", "shared_memory_byte_size": _INT_MAX}
    ),
}
_BINARY: Mapping[str, tuple[bytes, int]] = {
    "a text longer than the data": _binary([1, 1], struct.pack("<I", _INT_MAX) + b"a"),
    "a text of 2**32 - 1": _binary([1, 1], b"\xff" * 4),
    "data shorter than a length": _binary([1, 1], b"\x01\0"),
    "more texts than the shape": _binary([1, 1], (struct.pack("<I", 1) + b"a") * 1000),
    "a size beyond the body": _binary([1, 1], b"\x01\0\0\0a", said=_INT_MAX),
    "a negative size": _binary([1, 1], b"\x01\0\0\0a", said=-1),
}


def hostile(server: Serving) -> Iterator[Case]:
    """Through the gateway, over HTTP and gRPC."""
    yield _bodies(server)
    yield _chunks(server)
    yield _compressed(server)
    yield _regions(server)
    yield _mutated(server, "gateway-grpc-port", "the gateway's gRPC")


def native(server: Serving) -> Iterator[Case]:
    """Triton's own ports: what it ends from, the launcher starts again."""
    yield _native_bodies(server)
    yield _mutated(server, "grpc-port", "Triton's own gRPC port")
    yield _absent_output(server)


def _whole(server: Serving, pid: int) -> tuple[bool, str]:
    """Whether the same server answers others."""
    same = server.has_server() and server.tritonserver.pid == pid
    seconds, _ = until_answered(server)
    how = "the server goes on" if same else f"the server was ended, and answers {seconds:.0f} s on"
    return same, how


def _bodies(server: Serving) -> Case:
    began, pid, ends, wrong = time.monotonic(), server.tritonserver.pid, Counter[str](), []
    with httpx.Client(base_url=server.url(), timeout=60) as client:
        for name, body in _JSON.items():
            status = client.post(_INFER, content=body).status_code
            ends[str(status)] += 1
            wrong += [] if status == 400 else [f"{name}: {status}"]
        for name, (body, length) in _BINARY.items():
            headers = {"Inference-Header-Content-Length": str(length)}
            status = client.post(_INFER, content=body, headers=headers).status_code
            ends[str(status)] += 1
            wrong += [] if status == 400 else [f"{name}: {status}"]
        for path in ("/v1/embeddings", "/v1/chat/completions", "/embed", "/generate", "/api/chat"):
            ends[str(client.post(path, content=_NESTED).status_code)] += 1
    same, how = _whole(server, pid)
    return Case(
        "F3", f"{ends.total()} bodies to the gateway: shapes of 2**40 and INT_MAX, negative ones, "
        "150,000 nested brackets, lengths of texts that lie",
        f"{told(ends)}{f' ({wrong})' if wrong else ''}; {how}", time.monotonic() - began,
        same and not wrong and not any(end.startswith("5") for end in ends),
    )  # fmt: skip


def _chunks(server: Serving) -> Case:
    began, pid, ends = time.monotonic(), server.tritonserver.pid, Counter[str]()
    for path in (_INFER, "/v1/chat/completions", "/embed"):
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        ends[status_of(server.ports["port"], [head, *[b"1\r\n[\r\n" * 10_000] * 70])] += 1
    same, how = _whole(server, pid)
    return Case("F3", "700,000 chunks of one byte, on three routes of the gateway",
                f"{told(ends)}; {how}", time.monotonic() - began,
                same and set(ends) <= {"400", "413"})  # fmt: skip


def _compressed(server: Serving) -> Case:
    began, pid, ends = time.monotonic(), server.tritonserver.pid, Counter[str]()
    bomb = gzip.compress(b" " * 500_000_000, 9)
    for path, body in (EMBED, CHAT, (_INFER, {})):
        for content in (bomb, gzip.compress(json.dumps(body).encode()), b"\x1f\x8b no gzip"):
            answer = httpx.post(f"{server.url()}{path}", content=content, timeout=60,
                                headers={"content-encoding": "gzip"})  # fmt: skip
            ends[str(answer.status_code)] += 1
    same, how = _whole(server, pid)
    return Case("F3", f"{len(bomb) // 1000} KB of gzip that become 500 MB, and other gzip",
                f"{told(ends)}; {how}", time.monotonic() - began,
                same and not any(end.startswith("5") for end in ends))  # fmt: skip


def _regions(server: Serving) -> Case:
    """Shared memory is nobody's who comes over the network, and Triton's ports have none either."""
    began, pid, ends = time.monotonic(), server.tritonserver.pid, Counter[str]()
    for kind in ("system", "cuda"):
        for name, body in (
            ("a", {"key": "/nothing", "offset": 0, "byte_size": 64}),
            ("b", {"key": "../../etc/passwd", "offset": 2**62, "byte_size": 2**62}),
            ("c", {"key": "/x", "offset": -1, "byte_size": -1}),
        ):
            path = f"/v2/{kind}sharedmemory/region/{name}/register"
            ends[f"{post(server, path, body).status_code} (gateway)"] += 1
            url = f"{server.url('http-port')}{path}"
            ends[f"{httpx.post(url, json=body, timeout=60).status_code} (Triton)"] += 1
    same, how = _whole(server, pid)
    return Case("F3", "regions of shared memory registered that are not there, negative, elsewhere",
                f"{told(ends)}; {how}", time.monotonic() - began,
                same and not any(end.startswith(("2", "5")) for end in ends))  # fmt: skip


def _mutated(server: Serving, port: str, what: str) -> Case:
    began, pid, ends = time.monotonic(), server.tritonserver.pid, Counter[str]()
    draw = random.Random(0)
    with grpc.insecure_channel(f"127.0.0.1:{server.ports[port]}") as channel:
        call = rpc.GRPCInferenceServiceStub(channel)
        for _ in range(_MUTATED):
            try:
                call.ModelInfer(_mutation(draw), timeout=30)
                ends["OK"] += 1
            except grpc.RpcError as error:
                ends[error.code().name] += 1
            if not server.has_server() or server.tritonserver.pid != pid:
                break
    same, how = _whole(server, pid)
    is_own = port == "gateway-grpc-port"
    bad = {"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "UNAVAILABLE"} & set(ends)
    return Case("F3", f"{_MUTATED} mutated tensors over {what}",
                f"{told(ends)}; {how}", time.monotonic() - began,
                same and not bad if is_own else True)  # fmt: skip


def _mutation(draw: random.Random) -> Any:
    """An embedding's request with one or more things changed."""
    request = pb.ModelInferRequest(model_name=draw.choice([EMBEDDER, EMBEDDER, GENERATOR]))
    tensor = request.inputs.add(name="text_input", datatype="BYTES")
    sizes = [0, 1, 1, 1, 2, -1, _INT_MAX, 2**40, 2**62]
    tensor.shape.extend(draw.choice(sizes) for _ in range(draw.choice([0, 1, 2, 2, 2, 8])))
    if draw.random() < 0.3:
        tensor.datatype = draw.choice(["INT8", "FP64", "BOOL", "", "BYTES\0", "FP16", "x" * 300])
    if draw.random() < 0.2:
        tensor.name = draw.choice(["", "query", "text_input ", "input_ids", "x" * 5000])
    if draw.random() < 0.6:
        length = draw.choice([0, 1, 1, 5, _INT_MAX, 2**32 - 1])
        request.raw_input_contents.append(struct.pack("<I", length) + draw.randbytes(
            draw.choice([0, 1, 1, 3, 1000])))  # fmt: skip
    else:
        fields = tensor.contents
        draw.choice([
            lambda: fields.bytes_contents.append(b"a"), lambda: fields.int_contents.append(1),
            lambda: fields.fp32_contents.extend([1.0] * 9),
        ])()  # fmt: skip
    if draw.random() < 0.2:
        request.outputs.add(name=draw.choice(["embedding", "", "nothing", "num_input_tokens"]))
    if draw.random() < 0.2:
        request.parameters[draw.choice(["control", "timeout", "sequence_id", "priority"])].CopyFrom(
            draw.choice([pb.InferParameter(int64_param=-1), pb.InferParameter(bool_param=True),
                         pb.InferParameter(string_param="{" * 9)])
        )  # fmt: skip
    return request


def _native_bodies(server: Serving) -> Case:
    """Nothing checks them there: what Triton ends from, the launcher starts again."""
    began, num_ended, shown = time.monotonic(), 0, Counter[str]()
    for body in _JSON.values():
        until_answered(server)
        pid = server.tritonserver.pid
        try:
            status = httpx.post(f"{server.url('http-port')}{_INFER}", content=body, timeout=10)
            shown[str(status.status_code)] += 1
        except httpx.TransportError:
            shown["connection closed"] += 1
        time.sleep(0.3)
        num_ended += not server.has_server() or server.tritonserver.pid != pid
    seconds, _ = until_answered(server)
    return Case("F3", f"the {len(_JSON)} bodies in JSON, to Triton's own HTTP port (loopback only)",
                f"{told(shown)}; the server was ended {num_ended} times and started again each "
                "time", time.monotonic() - began, server.process.poll() is None)  # fmt: skip


def _absent_output(server: Serving) -> Case:
    """Triton's classification of an output of texts that the model did not send."""
    until_answered(server)
    began, pid, ends = time.monotonic(), server.tritonserver.pid, Counter[str]()
    for model in (EMBEDDER, GENERATOR):
        outputs = [
            {"name": name, "parameters": {"classification": count}}
            for name in ("control", "finish_reason", "text_output", "embedding", "num_input_tokens")
            for count in (1, 5)
        ]
        for output in outputs:
            tensor = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}
            for path in (f"/v2/models/{model}/infer", f"/v2/models/{model}/generate"):
                body = {"inputs": [tensor], "outputs": [output], "text_input": "a"}
                for port in ("http-port", "port"):
                    try:
                        answer = httpx.post(f"{server.url(port)}{path}", json=body, timeout=30)
                        ends[f"{answer.status_code} ({_WHO[port]})"] += 1
                    except httpx.TransportError as error:
                        ends[f"{type(error).__name__} ({_WHO[port]})"] += 1
                        until_answered(server)
    same, how = _whole(server, pid)
    return Case("F3", "classification of outputs that an answer lacks, of texts and numbers, "
                "Triton's HTTP and the gateway", f"{told(ends)}; {how}",
                time.monotonic() - began, same)  # fmt: skip


_WHO = {"port": "gateway", "http-port": "Triton"}
