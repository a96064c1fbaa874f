"""KServe over gRPC at the gateway: Atoll's own models, with Triton's client and Atoll's."""

from __future__ import annotations

import json
import time
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from gateways import EMBEDDER, GENERATOR, Served
from grpc_streams import SERVICE, answers_of
from tritonclient.grpc import service_pb2 as pb


def test_atoll_s_own_generator_through_the_door(served: Served) -> None:
    """Its client's id comes back, and cancels, although the model knows another one."""
    with triton.InferenceServerClient(served.grpc_address) as client, answers_of(client) as answers:

        def text(value: str) -> list[Any]:
            tensor = triton.InferInput("text_input", [1], "BYTES")
            return [tensor.set_data_from_numpy(np.array([value.encode()], dtype=object))]

        def ask(value: str, request_id: str = "", **parameters: Any) -> None:
            client.async_stream_infer(
                GENERATOR, text(value), request_id=request_id, parameters=parameters
            )

        ask("One, two,", "mine", max_tokens=3)
        found = answers.get(timeout=60)
        assert found.get_response().id == "mine" and found.as_numpy("text_output")[0]
        ask("a", "bad", temperature=-1.0)
        error = str(answers.get(timeout=60))
        assert "temperature" in error and "error_type" not in error
        ask("One, two,", "long", max_tokens=4000, ignore_eos=True)
        question = json.dumps({"op": "cancel", "request_id": "long"})
        deadline = time.monotonic() + 60
        is_cancelled, error = False, ""
        while not (is_cancelled and error):
            assert time.monotonic() < deadline
            if not is_cancelled:
                ask("", "", control=question)
            got = answers.get(timeout=60)
            if isinstance(got, Exception):
                error = str(got)
            else:
                is_cancelled |= got.as_numpy("control")[0] == b"true"
        assert "cancel" in error.lower()


@pytest.mark.parametrize("over", ["grpc", "http"])
def test_atoll_s_own_client_takes_the_gateway_for_a_server(served: Served, over: str) -> None:
    from atoll_client import Client
    from atoll_client.errors import NotFound, ValidationError

    address = served.grpc_address if over == "grpc" else served.url
    with Client(address) as client, Client(served.server.grpc_url) as direct:
        texts = ["an atoll", "bread"]
        assert np.allclose(client.embed(texts), direct.embed(texts), atol=1e-6)
        options: dict[str, Any] = {"max_tokens": 4, "temperature": 0.0}
        written = client.generate("One, two,", **options)
        assert written.text == direct.generate("One, two,", **options).text
        pieces = [chunk.text for chunk in client.stream("One, two,", **options)]
        assert "".join(pieces) == written.text
        with pytest.raises(ValidationError, match="temperature"):
            client.generate("a", temperature=-1.0)
        with pytest.raises(NotFound, match="nix"):
            client.generate("a", "nix")


@pytest.mark.parametrize(("request_id", "shown"), [("mine", "mine"), ("", "<id_unknown>")])
def test_an_error_names_the_client_s_own_id(served: Served, request_id: str, shown: str) -> None:
    """Triton's errors hold the request's id: there it was the one that the gateway had made."""
    message = pb.ModelInferRequest(model_name=EMBEDDER, id=request_id)
    with grpc.insecure_channel(served.grpc_address) as channel:
        infer = channel.unary_unary(
            f"{SERVICE}ModelInfer", pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )  # fmt: skip
        with pytest.raises(grpc.RpcError) as caught:
            infer(message, timeout=60)
    url = f"{served.url}/v2/models/{EMBEDDER}/infer"
    answer = httpx.post(url, json={"id": request_id, "inputs": []}, timeout=60)
    for error in (caught.value.details(), answer.json()["error"]):
        assert f"[request id: {shown}]" in error
