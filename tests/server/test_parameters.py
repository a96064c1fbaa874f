"""Request parameters of every type that KServe has, to entries of every kind, over gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from atoll.launcher import ServerProcess
from atoll_client import kserve

GENERATOR, EMBEDDER = "smollm2-135m-instruct", "all-minilm-l6-v2"
# How one number may be written. The fourth of KServe's, uint64, Triton itself refuses.
WAYS = ("int64", "double", "string")
_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture(scope="module")
def channel(embedded_server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(embedded_server.grpc_url) as channel:
        yield channel


def sent(channel: grpc.Channel, message: Any) -> dict[str, Any]:
    """Outputs of all responses together; texts are joined.

    Raises:
        ValueError: with the message of a response that is an error.
    """
    call = channel.stream_stream(
        _METHOD, pb.ModelInferRequest.SerializeToString, pb.ModelStreamInferResponse.FromString
    )
    found: dict[str, Any] = {}
    for response in call(iter([message]), timeout=60):
        if response.error_message:
            raise ValueError(response.error_message)
        outputs = kserve.outputs(response.infer_response)
        text = found.get("text_output", b"") + b"".join(outputs.get("text_output", ()))
        found |= {**outputs, "text_output": text}
    return found


def put(message: Any, name: str, value: Any, way: str) -> None:
    """One parameter, in one of the types."""
    parameter = message.parameters[name]
    if way == "int64":
        parameter.int64_param = int(value)
    elif way == "uint64":
        parameter.uint64_param = int(value)
    elif way == "double":
        parameter.double_param = float(value)
    elif way == "bool":
        parameter.bool_param = bool(value)
    else:
        parameter.string_param = str(value)


def generation(entry: str, options: dict[str, tuple[Any, str]]) -> Any:
    """A request of a generator, or the only turn of a conversation."""
    message = kserve.request(entry)
    kserve.add_texts(message, "text_input", ["Once upon a time"], [1])
    if entry.endswith("-session"):
        message.parameters["sequence_id"].int64_param = 77
        message.parameters["sequence_start"].bool_param = True
        message.parameters["sequence_end"].bool_param = True
    for name, (value, way) in options.items():
        put(message, name, value, way)
    return message


@pytest.mark.parametrize("entry", [GENERATOR, f"{GENERATOR}-session"])
@pytest.mark.parametrize("way", WAYS)
def test_generators(channel: grpc.Channel, entry: str, way: str) -> None:
    """A conversation's turn with temperature 0.7 was an internal error."""
    hot: dict[str, tuple[Any, str]] = {
        "temperature": (0.7, "double"), "top_p": ("0.9", "string"),
        "repetition_penalty": (2, way), "top_k": (5, way), "seed": (2**40 + 1, way),
        "max_tokens": (6, way), "x-priority": (-7, way),
    }  # fmt: skip
    flags = {"return_num_output_tokens": ("true", "string"), "ignore_eos": (True, "bool")}
    told = sent(channel, generation(entry, {**hot, **flags}))
    plain = sent(channel, generation(GENERATOR, {
        name: (value, "string") for name, (value, _) in {**hot, **flags}.items()
    }))  # fmt: skip
    assert told["text_output"] == plain["text_output"] != b""
    assert int(told["num_output_tokens"][0]) == 6


@pytest.mark.parametrize("entry", [GENERATOR, f"{GENERATOR}-session"])
@pytest.mark.parametrize(("name", "value", "way"), [
    ("max_tokens", 2.5, "double"), ("temperature", float("nan"), "double"),
    ("temperature", float("inf"), "double"), ("seed", -1, "int64"), ("top_p", True, "bool"),
    ("ignore_eos", 2, "int64"), ("ignore_eos", 0.5, "double"), ("adapter_id", 1.5, "double"),
    ("max_tokens", 2**63 - 1, "int64"), ("no_such_option", 1.5, "double"),
])  # fmt: skip
def test_what_a_parameter_cannot_be(
    channel: grpc.Channel, entry: str, name: str, value: Any, way: str
) -> None:
    with pytest.raises(ValueError, match=name):
        sent(channel, generation(entry, {name: (value, way)}))


def test_a_type_that_triton_has_not(channel: grpc.Channel) -> None:
    with pytest.raises((ValueError, grpc.RpcError), match="top_k"):
        sent(channel, generation(GENERATOR, {"top_k": (5, "uint64")}))


@pytest.mark.parametrize("way", WAYS)
def test_encoders(channel: grpc.Channel, way: str) -> None:
    def embedding(options: dict[str, tuple[Any, str]]) -> Any:
        message = kserve.request(EMBEDDER)
        kserve.add_texts(message, "text_input", ["a text"], [1, 1])
        for name, (value, kind) in options.items():
            put(message, name, value, kind)
        return sent(channel, message)["embedding"]

    whole = embedding({})
    short = embedding({"dimensions": (16, way), "normalize": (0, way), "truncate": (1, way),
                       "x-priority": (5, way)})  # fmt: skip
    assert short.shape == (1, 16)
    unit = short / np.linalg.norm(short)
    np.testing.assert_allclose(unit, whole[:, :16] / np.linalg.norm(whole[:, :16]), atol=1e-5)
    assert abs(np.linalg.norm(short) - 1) > 1e-3
    for value in (1.5, float("nan"), 0, 10**6):
        with pytest.raises(ValueError, match="dimensions"):
            embedding({"dimensions": (value, "double")})
    with pytest.raises(ValueError, match="x-priority is 1000; the most allowed is 999"):
        embedding({"x-priority": (1000, way)})
