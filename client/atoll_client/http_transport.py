"""HTTP, for networks without gRPC: slower, and the server notices cancellation late or never."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
from tritonclient.grpc import service_pb2 as pb

from atoll_client import kserve
from atoll_client.errors import (
    AtollError,
    DeadlineExceeded,
    GenerationError,
    NotFound,
    NotOffered,
    NotReady,
    Overloaded,
    TooLarge,
    Unauthorized,
    Unreached,
    UnsupportedModel,
    ValidationError,
    from_stream,
    is_full,
    without_model,
)
from atoll_client.kserve import Message
from atoll_client.transport import Metadata

_SIZE = "Inference-Header-Content-Length"
_SHARED = "/v2/systemsharedmemory/region"
_ERRORS: dict[int, type[AtollError]] = {
    400: ValidationError, 401: Unauthorized, 403: NotOffered, 404: NotFound, 413: TooLarge,
    429: Overloaded, 500: GenerationError, 501: UnsupportedModel, 503: NotReady,
    504: DeadlineExceeded,
}  # fmt: skip


class HttpTransport:
    """KServe v2 over HTTP: tensors in binary, generators through ``generate_stream``."""

    # ``generate_stream`` drops correlation ids.
    has_sequences = False
    notices_leaving = False

    def __init__(self, address: str, metadata: Metadata) -> None:
        self._base, self._headers = address.rstrip("/"), dict(metadata)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """See ``Transport``."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def model_names(self, timeout_s: float) -> list[str]:
        """See ``Transport``."""
        found = json.loads(await self._request("/v2/models/stats", timeout_s))
        return sorted({one["name"] for one in found["model_stats"]})

    async def metadata(self, name: str, timeout_s: float) -> Any:
        """See ``Transport``."""
        found = json.loads(await self._request(f"/v2/models/{name}", timeout_s))
        return SimpleNamespace(
            inputs=[SimpleNamespace(**tensor) for tensor in found["inputs"]],
            outputs=[SimpleNamespace(**tensor) for tensor in found["outputs"]],
        )

    async def infer(self, message: Message, timeout_s: float) -> Message:
        """See ``Transport``."""
        parts = message.raw_input_contents
        inputs = [
            {
                "name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape),
                "parameters": {"binary_data_size": len(raw)},
            }
            for tensor, raw in zip(message.inputs, parts, strict=True)
        ]  # fmt: skip
        parameters = {**_parameters(message), "binary_data_output": True}
        asked = {"id": message.id, "inputs": inputs, "parameters": parameters}
        if message.outputs:
            asked["outputs"] = [
                # Without parameters, such as a place in shared memory, it would come as JSON.
                {"name": output.name, "parameters": _parameters(output) or {"binary_data": True}}
                for output in message.outputs
            ]
        head = json.dumps(asked).encode()
        body = b"".join((head, *parts))
        path = f"/v2/models/{message.model_name}/infer"
        headers = {_SIZE: str(len(head)), "Content-Type": "application/octet-stream"}
        async with self._sent("POST", path, timeout_s, data=body, headers=headers) as response:
            raw = await response.read()
            _check(response.status, raw)
            return _response(raw, int(response.headers.get(_SIZE, len(raw))))

    async def share(self, name: str, size: int, timeout_s: float) -> None:
        """See ``Transport``."""
        body = {"key": f"/{name}", "offset": 0, "byte_size": size}
        await self._request(f"{_SHARED}/{name}/register", timeout_s, "POST", json=body)

    async def unshare(self, name: str, timeout_s: float) -> None:
        """See ``Transport``."""
        await self._request(f"{_SHARED}/{name}/unregister", timeout_s, "POST")

    async def responses(
        self, message: Message, timeout_s: float, canceller: str = ""
    ) -> AsyncGenerator[Message, None]:
        """See ``Transport``."""
        message.parameters["json_errors"].bool_param = True
        body = {tensor.name: value for tensor, value in _values(message)}
        body["parameters"] = _parameters(message)
        path = f"/v2/models/{message.model_name}/generate_stream"
        async with self._sent("POST", path, timeout_s, json=body) as response:
            if response.status != 200:
                _check(response.status, await response.read())
            async for line in _lines(response.content):
                if line.startswith(b"data:"):
                    yield _event(json.loads(line[5:]))

    async def _request(
        self, path: str, timeout_s: float, method: str = "GET", **options: Any
    ) -> bytes:
        async with self._sent(method, path, timeout_s, **options) as response:
            raw = await response.read()
            _check(response.status, raw)
            return raw

    @contextlib.asynccontextmanager
    async def _sent(
        self, method: str, path: str, timeout_s: float, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._open().request(
                method, self._base + path, timeout=timeout, **options
            ) as response:
                yield response
        except asyncio.TimeoutError as error:
            raise DeadlineExceeded(f"no answer within {timeout_s:.1f} s") from error
        except aiohttp.ClientConnectorError as error:
            raise Unreached(f"{self._base}: {error}") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise NotReady(f"{self._base} went away: {error}") from error
        except aiohttp.ClientError as error:
            raise AtollError(f"{self._base}: {error}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self._headers)
        return self._session


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length; aiohttp limits their length, and details of a long prompt exceed it."""
    parts: list[bytes] = []
    async for chunk in content.iter_any():
        *ended, rest = chunk.split(b"\n")
        for line in ended:
            yield b"".join((*parts, line))
            parts = []
        parts.append(rest)
    yield b"".join(parts)


def _parameters(message: Message) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in message.parameters.items()
    }


def _values(message: Message) -> list[tuple[Any, Any]]:
    """Inputs as JSON values, as ``generate_stream`` expects them; scalars unwrapped."""
    found = []
    for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True):
        values = kserve.values(tensor.datatype, raw)
        found.append((tensor, values[0] if list(tensor.shape) == [1] else values))
    return found


def _check(status: int, raw: bytes) -> None:
    if status == 200:
        return
    if raw.startswith(b"data:"):  # a stream that was refused before it began
        with contextlib.suppress(ValueError, KeyError, TypeError):
            raise from_stream(str(json.loads(raw[5:])["error"]))
    try:
        text = str(json.loads(raw)["error"])
    except (ValueError, KeyError, TypeError):
        text = raw.decode("utf-8", "replace")[:500]
    if status == 503 and is_full(text):
        raise Overloaded(text)
    raise without_model(text) or _ERRORS.get(status, AtollError)(text)


def _response(raw: bytes, head_size: int) -> Message:
    head = json.loads(raw[:head_size])
    message = pb.ModelInferResponse(model_name=head["model_name"], id=head.get("id", ""))
    at = head_size
    for output in head.get("outputs", ()):
        size = output.get("parameters", {}).get("binary_data_size")
        # The output was written to shared memory.
        if size is None:
            continue
        message.outputs.add(name=output["name"], datatype=output["datatype"], shape=output["shape"])
        message.raw_output_contents.append(raw[at : at + size])
        at += size
    return message


def _event(found: dict[str, Any]) -> Message:
    """An event as a response; tensors of one element arrive as plain values."""
    if "error" in found:
        raise from_stream(str(found["error"]))
    message = pb.ModelInferResponse(model_name=found.get("model_name", ""))
    for name, datatype in _EVENT_TYPES.items():
        if name in found:
            value = found[name]
            values = value if isinstance(value, list) else [value]
            message.outputs.add(name=name, datatype=datatype, shape=[len(values)])
            message.raw_output_contents.append(kserve.packed(datatype, values))
    return message


_EVENT_TYPES = {
    "text_output": "BYTES", "finish_reason": "BYTES", "stop_reason": "BYTES",
    "reasoning_state": "BYTES",
    "cumulative_logprob": "FP32", "logprobs": "BYTES", "prompt_logprobs": "BYTES",
    "num_input_tokens": "UINT32", "num_output_tokens": "UINT32",
    "num_cached_tokens": "UINT32", "num_accepted_tokens": "UINT32",
    "num_rejected_tokens": "UINT32", "token_ids": "INT32",
    "segments": "BYTES", "language": "BYTES", "duration": "FP32", "control": "BYTES",
}  # fmt: skip
