"""KServe over gRPC at the gateway: Triton's own client, unmodified, and any model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from gateways import Others
from grpc_streams import SERVICE, answers_of
from other_models import KINDS, NUMBERS
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from atoll_client.errors import NotFound, from_stream


@pytest.fixture(scope="module")
def client(others: Others) -> Iterator[Any]:
    with triton.InferenceServerClient(others.grpc_address) as client:
        yield client


def _grpc_inputs(module: Any, kinds: Any = KINDS) -> list[Any]:
    found = []
    for kind in kinds:
        array = NUMBERS[kind]
        name = "BYTES" if kind == "STRING" else kind
        made = module.InferInput(f"IN_{kind}", array.shape, name)
        found.append(made.set_data_from_numpy(array))
    return found


def _number(module: Any, *values: int, wait: float | None = None) -> list[Any]:
    made = module.InferInput("IN", [len(values)], "INT32")
    found = [made.set_data_from_numpy(np.array(values, np.int32))]
    if wait is not None:
        pause = module.InferInput("WAIT", [1], "FP32")
        found.append(pause.set_data_from_numpy(np.array([wait], np.float32)))
    return found


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_every_datatype_and_parameter(client: Any, packed: str | None) -> None:
    parameters = {"a": 1, "b": "text", "c": True, "d": 1.5}
    found = client.infer(
        "echo", _grpc_inputs(triton), request_id="mine", sequence_id="s", sequence_start=True,
        sequence_end=True, timeout=5_000_000, parameters=parameters, compression_algorithm=packed,
    )  # fmt: skip
    assert found.get_response().id == "mine"
    for kind in KINDS:
        got, given = found.as_numpy(f"OUT_{kind}"), NUMBERS[kind]
        assert got.dtype == given.dtype and got.tolist() == given.tolist(), kind
    told = json.loads(found.as_numpy("TOLD")[0])
    assert told == {
        "parameters": parameters, "id": "mine", "sequence": "s", "flags": 3, "timeout": 5_000_000,
    }  # fmt: skip


def test_what_a_client_asks_about_server_and_models(client: Any, others: Others) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("echo")
    assert not client.is_model_ready("nix")
    assert "statistics" in client.get_server_metadata().extensions
    with triton.InferenceServerClient(others.server.grpc_url) as direct:
        for model in ("echo", "batched", "sequence", "repeat", "chain"):
            assert client.get_model_metadata(model) == direct.get_model_metadata(model)
            assert client.get_model_config(model) == direct.get_model_config(model)
            mine = client.get_inference_statistics(model).model_stats[0]
            assert mine == direct.get_inference_statistics(model).model_stats[0]
    index = client.get_model_repository_index().models
    assert {one.name for one in index} == {"echo", "batched", "sequence", "repeat", "chain"}
    for ask, name in (
        (lambda: client.load_model("echo"), "RepositoryModelLoad"),
        (lambda: client.get_system_shared_memory_status(), "SystemSharedMemoryStatus"),
        (lambda: client.register_system_shared_memory("a", "/a", 1), "SystemSharedMemoryRegister"),
        (lambda: client.get_trace_settings(), "TraceSetting"),
        (lambda: client.update_log_settings({}), "LogSettings"),
    ):  # fmt: skip
        with pytest.raises(InferenceServerException, match=f"UNIMPLEMENTED.*{name}: not offered"):
            ask()


def test_errors_have_triton_s_statuses_and_texts(client: Any, others: Others) -> None:
    two = _grpc_inputs(triton, ["INT8"])
    with triton.InferenceServerClient(others.server.grpc_url) as direct:
        for model, inputs, more in (
            ("nix", two, {}), ("echo", two, {"model_version": "9"}),
            ("repeat", _number(triton, 1), {}), ("sequence", _number(triton, 1), {}),
            ("echo", two, {"outputs": [triton.InferRequestedOutput("NIX")]}),
        ):  # fmt: skip
            said = []
            for one in (client, direct):
                with pytest.raises(InferenceServerException) as caught:
                    one.infer(model, inputs, **more)
                said.append((caught.value.status(), caught.value.message()))
            assert said[0] == said[1], model


def test_streams_of_decoupled_models(client: Any) -> None:
    with answers_of(client) as answers:
        client.async_stream_infer("repeat", _number(triton, 1, 2, 3), request_id="a")
        found = [answers.get(timeout=60) for _ in range(3)]
        assert [one.as_numpy("OUT")[0] for one in found] == [1, 2, 3]
        assert {one.get_response().id for one in found} == {"a"}
        client.async_stream_infer(
            "chain", _number(triton, 4), request_id="b", enable_empty_final_response=True
        )
        first, last = answers.get(timeout=60), answers.get(timeout=60)
        assert first.as_numpy("OUT")[0] == 4 and not last.get_response().outputs
        assert last.get_response().parameters["triton_final_response"].bool_param
        # An error is an answer of its own; the stream goes on.
        client.async_stream_infer("repeat", _number(triton, 5, -6), request_id="c")
        assert answers.get(timeout=60).as_numpy("OUT")[0] == 5
        assert "negative: -6" in str(answers.get(timeout=60))
        client.async_stream_infer("nix", _number(triton, 1))
        assert "unknown model: 'nix'" in str(answers.get(timeout=60))
        # Our own client asks for the kind, which it took for an error in the model.
        client.async_stream_infer("nix", _number(triton, 1), parameters={"json_errors": True})
        error = answers.get(timeout=60).message()
        assert json.loads(error)["error_type"] == "not_found"
        assert isinstance(from_stream(error), NotFound)
        client.async_stream_infer("repeat", _number(triton, 7))
        assert answers.get(timeout=60).as_numpy("OUT")[0] == 7
    with answers_of(client, headers={"triton_grpc_error": "true"}) as answers:
        client.async_stream_infer("nix", _number(triton, 1))
        assert answers.get(timeout=60).status() == "StatusCode.NOT_FOUND"


def test_many_requests_on_one_stream_are_answered_in_order(client: Any) -> None:
    with answers_of(client) as answers:
        for value in range(40):
            kind = "nix" if value % 10 == 9 else "echo"
            tensor = triton.InferInput("IN_INT32", [1], "INT32")
            tensor.set_data_from_numpy(np.array([value], np.int32))
            client.async_stream_infer(kind, [tensor], request_id=str(value))
        for value in range(40):
            found = answers.get(timeout=60)
            if value % 10 == 9:
                assert "unknown model" in str(found)
            else:
                assert found.as_numpy("OUT_INT32")[0] == value
        # A sequence's requests are sent one after the other.
        for value in range(1, 9):
            client.async_stream_infer(
                "sequence", _number(triton, value), sequence_id="s",
                sequence_start=value == 1, sequence_end=value == 8,
            )  # fmt: skip
        sums = [int(answers.get(timeout=60).as_numpy("OUT")[0]) for _ in range(8)]
        assert sums == [1, 3, 6, 10, 15, 21, 28, 36]


def test_a_client_that_leaves_or_whose_time_is_up_brings_no_server_down(others: Others) -> None:
    """To break a call off can end Triton 2.51; a model of others' runs on instead."""

    async def scenario() -> None:
        async with triton_aio.InferenceServerClient(others.grpc_address) as client:
            for leaves in (True, False):

                async def requests() -> AsyncIterator[Any]:
                    yield {
                        "model_name": "repeat",
                        "inputs": _number(triton_aio, *range(100), wait=0.05),
                    }

                timeout = None if leaves else 2.0
                stream = client.stream_infer(requests(), stream_timeout=timeout)
                seen = 0
                with contextlib.suppress(grpc.RpcError, asyncio.CancelledError):
                    async for _, error in stream:
                        if error is not None:
                            # The gateway may say so before the client looks at its own clock.
                            assert not leaves and "no answer within" in error.message()
                            break
                        seen += 1
                        if leaves and seen == 3:
                            stream.cancel()
                assert 0 < seen < 100

    before = _num_repeated(others)
    for _ in range(3):
        asyncio.run(scenario())
    deadline = time.monotonic() + 60
    while _num_repeated(others) < before + 3 * 2:
        assert time.monotonic() < deadline and others.server.is_alive, "the work does not end"
        time.sleep(0.1)
    assert others.server.is_alive
    assert "repeat: cancelled" not in others.server.log.read_text()


def _num_repeated(others: Others) -> int:
    return others.server.log.read_text().count("repeat: done")


def _message(**changes: Any) -> Any:
    message = pb.ModelInferRequest(model_name="echo", id="m")
    message.inputs.add(name="IN_INT32", datatype="INT32", shape=[2])
    message.raw_input_contents.append(b"\1\0\0\0\2\0\0\0")
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def _with_contents(datatype: str, **contents: Any) -> Any:
    message = pb.ModelInferRequest(model_name="echo")
    kind = "STRING" if datatype == "BYTES" else datatype
    tensor = message.inputs.add(name=f"IN_{kind}", datatype=datatype, shape=[2])
    for name, values in contents.items():
        getattr(tensor.contents, name).extend(values)
    return message


def test_values_apart_from_binary_data(others: Others) -> None:
    with grpc.insecure_channel(others.grpc_address) as channel:
        infer = channel.unary_unary(
            SERVICE + "ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        for datatype, field, values, raw in (
            ("INT8", "int_contents", [-1, 127], b"\xff\x7f"),
            ("UINT16", "uint_contents", [0, 65535], b"\0\0\xff\xff"),
            ("BOOL", "bool_contents", [True, False], b"\1\0"),
            ("FP64", "fp64_contents", [0.5, -1], np.array([0.5, -1]).tobytes()),
            ("BYTES", "bytes_contents", [b"a", b""], b"\1\0\0\0a\0\0\0\0"),
        ):  # fmt: skip
            found = infer(_with_contents(datatype, **{field: values}))
            assert found.raw_output_contents[0] == raw, datatype
        both = _message()
        both.inputs[0].contents.int_contents.extend([1, 2])
        for message, text in (
            (both, "contents field must not be specified"),
            (_with_contents("INT8", int_contents=[1, 128]), "beyond the range of INT8: 128"),
            (_with_contents("INT8", int_contents=[1]), "has 1 bytes of data; INT8"),
            (_with_contents("INT8", uint_contents=[1, 2]), "uint_contents"),
            (_with_contents("FP16"), "has 0 bytes of data"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                infer(message)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert text in caught.value.details(), text


def test_perf_analyzer_takes_the_gateway_for_a_server(others: Others) -> None:
    from atoll.errors import ConfigError
    from atoll.launcher.perf_analyzer import PerfAnalyzer

    try:
        analyzer = PerfAnalyzer.find()
    except ConfigError as error:
        pytest.skip(str(error))
    row: dict[str, Any] = {"IN": [1.5, 2.5, 3.5, 4.5], "TIN": ["a", "b", "c", "d"]}
    load = analyzer.run(others.grpc_address, "batched", [row], concurrency=2, requests=20)
    assert load.responses >= 20
    row = {"IN": {"content": [1, 2, 3], "shape": [3]}, "WAIT": [0.0]}
    load = analyzer.run(others.grpc_address, "repeat", [row], requests=4, streaming=True)
    assert load.responses >= 3 * len(load.latencies_s) >= 12
