"""Models for Triton that do as little as possible, or misbehave, and requests to them."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import tritonclient.grpc as triton

from atoll.launcher import ServerProcess

EMBED = """
import os
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        {initialize}

    def execute(self, requests):
        return [self.answer(r) for r in requests]

    def answer(self, request):
        texts = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()
        if texts.reshape(-1)[0] == b"die":
            os._exit(1)
        value = {value}
        return pb_utils.InferenceResponse([
            pb_utils.Tensor("embedding", np.full((len(texts), 4), value, np.float32)),
            pb_utils.Tensor("num_input_tokens", np.ones((len(texts), 1), np.uint32)),
        ])
"""

STREAM = """
import threading
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            threading.Thread(target=self.answer, args=(request, sender), daemon=True).start()

    def answer(self, request, sender):
        text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy().reshape(-1)[0]
        while True:
            token = pb_utils.Tensor("text_output", np.array([b"x"], dtype=object))
            is_last = text != b"forever"
            flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if is_last else 0
            sender.send(pb_utils.InferenceResponse([token]), flags)
            if is_last:
                return
            time.sleep(0.05)
"""


def embed_code(initialize: str = "pass", value: str = "1") -> str:
    return EMBED.format(initialize=initialize, value=value)


def infer(server: ServerProcess, model: str, text: bytes) -> np.ndarray[Any, Any]:
    tensor = triton.InferInput("text_input", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text]], dtype=object))
    client = triton.InferenceServerClient(server.grpc_url)
    try:
        result: np.ndarray[Any, Any] = client.infer(model, [tensor]).as_numpy("embedding")
        return result
    finally:
        client.close()


def post(url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=b"{}", headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def wait_until(done: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not done() and time.monotonic() < deadline:
        time.sleep(0.05)
    return done()


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


StartServer = Callable[..., ServerProcess]
