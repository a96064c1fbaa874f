"""Models for a Triton server that are not Atoll's: they give back what they get.

``echo``: every datatype, and a text that tells the request's parameters. ``batched``: with a batch
axis, priorities and a queue. ``sequence``: the sum of a sequence's numbers. ``repeat``: a response
for each number; a negative one is an error. ``chain``: an ensemble around it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from atoll.launcher import free_ports
from atoll.launcher.installation import find_installation

KINDS = (
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16",
    "FP32", "FP64", "STRING",
)  # fmt: skip

# Values that tell datatypes apart.
NUMBERS: dict[str, Any] = {
    "BOOL": np.array([True, False]), "FP16": np.array([0.5, -2], np.float16),
    "FP32": np.array([0.1, 3e38], np.float32), "FP64": np.array([0.1, -1e300]),
    "STRING": np.array([b"an atoll", "環礁".encode(), b""], dtype=object),
}  # fmt: skip

for _kind in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"):
    _limits = np.iinfo(_kind.lower())
    NUMBERS[_kind] = np.array([_limits.min, _limits.max], _kind.lower())

_HEAD = """
import json
import threading
import time

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
"""

_ECHO = """
    def initialize(self, args):
        self.config = json.loads(args["model_config"])

    def execute(self, requests):
        return [pb.InferenceResponse(self.outputs(request)) for request in requests]

    def outputs(self, request):
        made = []
        for one in self.config["input"]:
            given = pb.get_input_tensor_by_name(request, one["name"])
            if given is not None:
                made.append(pb.Tensor(one["name"].replace("IN", "OUT", 1), given.as_numpy()))
        if any(one["name"] == "TOLD" for one in self.config["output"]):
            told = {
                "parameters": json.loads(request.parameters() or "{}"),
                "id": request.request_id(), "sequence": request.correlation_id(),
                "flags": request.flags(), "timeout": request.timeout(),
            }
            text = json.dumps(told, sort_keys=True).encode()
            made.append(pb.Tensor("TOLD", np.array([text], dtype=object)))
        return made
"""

_SUM = """
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        found = []
        for request in requests:
            key = request.correlation_id()
            if request.flags() & 1:
                self.sums[key] = 0
            self.sums[key] += int(pb.get_input_tensor_by_name(request, "IN").as_numpy()[0])
            value = np.array([self.sums[key]], np.int32)
            found.append(pb.InferenceResponse([pb.Tensor("OUT", value)]))
        return found
"""

_REPEAT = """
    def execute(self, requests):
        for request in requests:
            values = pb.get_input_tensor_by_name(request, "IN").as_numpy().tolist()
            wait = pb.get_input_tensor_by_name(request, "WAIT")
            seconds = 0.0 if wait is None else float(wait.as_numpy()[0])
            work = (request.get_response_sender(), values, seconds)
            threading.Thread(target=self.work, args=work, daemon=True).start()

    def work(self, sender, values, seconds):
        final = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        for value in values:
            if value < 0:
                error = pb.TritonError("negative: %d" % value)
                sender.send(pb.InferenceResponse([], error), flags=final)
                return
            time.sleep(seconds)
            if sender.is_cancelled():
                print("repeat: cancelled before %d" % value, flush=True)
                break
            output = pb.Tensor("OUT", np.array([value], np.int32))
            sender.send(pb.InferenceResponse([output]))
        print("repeat: done", flush=True)
        sender.send(flags=final)
"""

_CONTROL = (
    'control_input [ { name: "START" control [ { kind: CONTROL_SEQUENCE_START '
    "int32_false_true: [ 0, 1 ] } ] } ]"
)

_STEP = (
    'step [ { model_name: "repeat" model_version: -1 input_map { key: "IN" value: "IN" } '
    'output_map { key: "OUT" value: "OUT" } } ]'
)


def _tensor(kind: str, name: str, datatype: str, dims: str, more: str = "") -> str:
    return f'{kind} [ {{ name: "{name}" data_type: TYPE_{datatype} dims: [ {dims} ] {more} }} ]\n'


def write(root: Path) -> None:
    """A repository of all of them."""
    one = _tensor("input", "IN", "INT32", "1") + _tensor("output", "OUT", "INT32", "1")
    many = _tensor("input", "IN", "INT32", "-1") + _tensor("output", "OUT", "INT32", "1")
    four = "".join(
        _tensor(kind, name, datatype, "4")
        for kind, end in (("input", "IN"), ("output", "OUT"))
        for name, datatype in ((end, "FP32"), (f"T{end}", "STRING"))
    )
    echo = "".join(
        _tensor("input", f"IN_{kind}", kind, "-1", "optional: true")
        + _tensor("output", f"OUT_{kind}", kind, "-1")
        for kind in KINDS
    ) + _tensor("output", "TOLD", "STRING", "1")
    priorities = "dynamic_batching { priority_levels: 3 default_priority_level: 2 }\n"
    _model(root, "echo", f"max_batch_size: 0\n{echo}", _ECHO)
    _model(root, "batched", f"max_batch_size: 8\n{four}{priorities}", _ECHO)
    sequences = (
        f"sequence_batching {{ max_sequence_idle_microseconds: 20000000 direct {{}} {_CONTROL} }}\n"
    )
    _model(root, "sequence", f"max_batch_size: 0\n{one}{sequences}", _SUM)
    decoupled = "model_transaction_policy { decoupled: true }\n"
    wait = _tensor("input", "WAIT", "FP32", "1", "optional: true")
    _model(root, "repeat", f"max_batch_size: 0\n{many}{wait}{decoupled}", _REPEAT)
    _model(root, "chain", f"max_batch_size: 0\n{many}ensemble_scheduling {{ {_STEP} }}\n", None)


def _model(root: Path, name: str, config: str, code: str | None) -> None:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    kind = 'platform: "ensemble"' if code is None else 'backend: "python"'
    (root / name / "config.pbtxt").write_text(f'name: "{name}"\n{kind}\n{config}')
    if code is not None:
        (folder / "model.py").write_text(_HEAD + code)


class OtherServer:
    """A tritonserver with these models; ``with`` starts and stops it."""

    def __init__(self) -> None:
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        self.scratch = Path(tempfile.mkdtemp(prefix="other-"))
        self.log = self.scratch / "log"

    @property
    def grpc_url(self) -> str:
        """host:port of its gRPC endpoint."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        """Base URL of its HTTP endpoint."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def is_alive(self) -> bool:
        """Whether the process that was started still runs."""
        return self.process.poll() is None

    def __enter__(self) -> OtherServer:
        write(self.scratch / "models")
        server = find_installation()
        self._prefix = f"other_{secrets.token_hex(4)}_"
        arguments = [
            str(server.binary),
            f"--model-repository={self.scratch / 'models'}",
            f"--backend-directory={server.backends(self.scratch)}",
            f"--cache-directory={server.caches}",
            "--disable-auto-complete-config",
            *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
            f"--http-port={self.http_port}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-port={self.metrics_port}",
            "--exit-timeout-secs=2",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
        ]
        environment = {**os.environ, **server.environment()}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(arguments, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not self._is_ready():
            assert self.is_alive and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        return self

    def __exit__(self, *reason: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for left in Path("/dev/shm").glob(f"{self._prefix}*"):
            left.unlink(missing_ok=True)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.http_url}/v2/health/ready", timeout=2):
                return True
        except OSError:
            return False


TWO = {"name": "IN_INT32", "datatype": "INT32", "shape": [2], "data": [1, 2]}
