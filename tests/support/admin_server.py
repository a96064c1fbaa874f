"""``atoll serve`` with models that count slowly, load slowly or not at all, and what asks it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from serving import Serving, serving
from small_models import embed_code, wait_until

from atoll.launcher import free_ports
from atoll.launcher.admin.client import AdminClient
from atoll.launcher.stubs import find_stubs

KEY = "0123456789abcdef0123456789abcdef"

# Answers with the numbers from 0 on, one every 30 ms.
COUNT = """
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
        last = int(text)
        for number in range(last + 1):
            time.sleep(0.03)
            token = pb_utils.Tensor("text_output", np.array([str(number).encode()], dtype=object))
            flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if number == last else 0
            sender.send(pb_utils.InferenceResponse([token]), flags)
"""
# Tensors of no task of ours: nobody asks these models but the tests.
CONFIG = """backend: "python"
input [ {{ name: "text_input" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [ {{ name: "{}" data_type: {} dims: [ 1 ] }} ]
model_transaction_policy {{ decoupled: {} }}
"""
TENSORS = (("embedding", "TYPE_FP32", "false"), ("text_output", "TYPE_STRING", "true"))


def write_entries(folder: Path) -> Path:
    """A repository: ``count``, ``other`` (it counts, too), ``slow``, which loads for as long as
    the file ``wait`` is in the folder, and ``bad``, which does not load."""
    codes = {
        "count": COUNT,
        "other": COUNT,
        "slow": embed_code(
            f"import time\n        while os.path.exists({str(folder / 'wait')!r}): time.sleep(0.1)"
        ),
        "bad": embed_code("raise RuntimeError('no weights here')"),
    }
    for name, code in codes.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(CONFIG.format(*TENSORS[code is COUNT]))
        (folder / name / "1" / "model.py").write_text(code)
    return folder


class Administered:
    """A server, and a client of its socket, which is in ``runtime``. port: for everybody else."""

    def __init__(self, server: Serving, client: AdminClient, runtime: Path, port: int) -> None:
        self.server, self.client, self.runtime, self.port = server, client, runtime, port

    def processes(self, model: str) -> list[int]:
        """Those of a model that run."""
        stubs = find_stubs(self.server.tritonserver.pid)
        return [s.pid for s in stubs if s.model == model and s.is_running()]

    def do(self, operation: str, **body: Any) -> list[dict[str, Any]]:
        """The events of an operation; returns when the gateway knows of it, too."""
        events = list(self.client.events(operation, body))
        if operation.endswith("/load"):
            names = [body["lora_name"]] if "lora_name" in body else events[-1]["models"]
            assert wait_until(lambda: all(map(self._is_known, names)), 20)
        return events

    def _is_known(self, name: str) -> bool:
        path = f"/v1/models/{name}" if name not in self.models() else f"/v2/models/{name}/ready"
        return httpx.get(f"{self.server.url()}{path}", timeout=60).status_code == 200

    def models(self) -> dict[str, dict[str, Any]]:
        """What ``atoll ps`` shows of the models, by name."""
        return {row["name"]: row for row in self.client.models()["models"]}

    def ask(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """Posts to the gateway."""
        return httpx.post(f"{self.server.url()}{path}", json=body, timeout=60)

    def begin(self, model: str, last: int) -> Counting:
        """Lets a model count; returns once it has begun."""
        counting = Counting(f"{self.server.url()}/v2/models/{model}/generate_stream", last)
        assert counting.has_begun.wait(30), counting.error
        return counting


class Counting:
    """A streamed answer that is being read."""

    def __init__(self, url: str, last: int) -> None:
        self.numbers: list[str] = []
        self.error = ""
        self.has_begun = threading.Event()
        self._url, self._body = url, {"text_input": str(last)}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with httpx.stream("POST", self._url, json=self._body, timeout=60) as response:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    data = json.loads(line[5:])
                    self.error = self.error or str(data.get("error", ""))
                    self.numbers += [data["text_output"]] if "text_output" in data else []
                    self.has_begun.set()

    def finish(self) -> list[str]:
        """All numbers, in the order in which they came."""
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()
        return self.numbers


@contextmanager
def administered(folder: Path, runtime: Path, *arguments: str) -> Iterator[Administered]:
    """A server with the entry ``count``, whose gateway takes ``KEY``."""
    key_file, port = folder / "key", free_ports(1)[0]
    key_file.write_text(f"{KEY}\n")
    key_file.chmod(0o600)
    repository = write_entries(folder / "repository")
    with serving(
        folder, "--repository", str(repository), "--model-id=count", "--watch-interval=0.5",
        f"--admin-key-file={key_file}", f"--admin-port={port}", *arguments,
        XDG_RUNTIME_DIR=str(runtime), ATOLL_LOG_REQUESTS="true",
    ) as server:  # fmt: skip
        (address,) = (runtime / "atoll").iterdir()
        with AdminClient(address) as client:
            yield Administered(server, client, runtime, port)
    assert not any((runtime / "atoll").iterdir())
