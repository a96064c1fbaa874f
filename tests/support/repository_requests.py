"""Requests to an entry of the repository over HTTP and gRPC."""

from __future__ import annotations

import json
import queue
import urllib.request
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
from whole_repository import COUNT, PROMPT, Served


def over_http(served: Served, **options: Any) -> dict[str, Any]:
    """The answer of ``/generate`` to the prompt."""
    body = {
        "text_input": PROMPT, "max_tokens": COUNT, "ignore_eos": True, "return_token_ids": True,
        **options,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{served.server.http_url}/v2/models/{served.name}/generate", json.dumps(body).encode()
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        found: dict[str, Any] = json.loads(response.read())
    return found


def over_grpc(served: Served, **options: Any) -> tuple[list[str], list[int]]:
    """The pieces of a stream, and all its ids."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client = grpc.InferenceServerClient(served.server.grpc_url)
    client.start_stream(lambda result, error: answers.put((result, error)))
    sampling = json.dumps({"max_tokens": COUNT, "ignore_eos": True, **options})
    values: dict[str, tuple[bytes | bool, str]] = {
        "text_input": (PROMPT.encode(), "BYTES"),
        "sampling_parameters": (sampling.encode(), "BYTES"),
        "stream": (True, "BOOL"),
        "return_token_ids": (True, "BOOL"),
    }
    inputs = []
    for name, (value, kind) in values.items():
        tensor = grpc.InferInput(name, [1], kind)
        tensor.set_data_from_numpy(np.array([value], dtype=object if kind == "BYTES" else bool))
        inputs.append(tensor)
    client.async_stream_infer(served.name, inputs, enable_empty_final_response=True)
    texts: list[str] = []
    ids: list[int] = []
    while True:
        result, error = answers.get(timeout=60)
        assert error is None, error
        texts.append(result.as_numpy("text_output")[0].decode())
        ids += result.as_numpy("token_ids").tolist()
        if result.get_response().parameters["triton_final_response"].bool_param:
            client.stop_stream()
            client.close()
            return texts, ids


def infer(
    served: Served, inputs: dict[str, list[Any]], **parameters: Any
) -> dict[str, np.ndarray[Any, Any]]:
    """The answer over gRPC, which is HTTP's too."""
    answers = []
    for module, url in ((grpc, served.server.grpc_url), (http, served.server.http_url[7:])):
        tensors = []
        for name, rows in inputs.items():
            array = np.array(rows, dtype=object)
            tensor = module.InferInput(name, list(array.shape), "BYTES")
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        with module.InferenceServerClient(url) as client:
            result = client.infer(served.name, tensors, parameters=parameters or None)
            outputs = result.get_response()
            names = (
                [o["name"] for o in outputs["outputs"]]
                if module is http
                else [o.name for o in outputs.outputs]
            )
            answers.append({name: result.as_numpy(name) for name in names})
    first, second = answers
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    return first
