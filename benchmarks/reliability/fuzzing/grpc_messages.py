"""Messages of gRPC: KServe's, TEI's, health's and reflection's, changed in fields and in bytes."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from atoll_client.gateway.tei.grpc_schema import health, reflection, tei
from fuzzing import target
from fuzzing.shot import GrpcShot
from fuzzing.tensors import INPUTS, packed
from fuzzing.values import bits_flipped

_KSERVE = "/inference.GRPCInferenceService/"
_INTS = (0, 1, 2, -1, 7, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))
_TEXTS = ("", "a", "an atoll", "\0", "\u2603" * 100, "x" * 70_000, "1", "-1", *target.MODELS[:4])
# Besides inferences. Those that load and unload have the name of a model that is not there.
_OTHERS = (
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig",
    "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload",
    "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister",
    "TraceSetting", "LogSettings", "Nope",
)  # fmt: skip
_METADATA: tuple[tuple[tuple[str, str], ...], ...] = (
    (), (), (), (), (("x-request-id", "x" * 3000),), (("traceparent", "00-x"),), (("model", "x"),),
    (("model-id", target.EMBEDDER),), (("grpc-accept-encoding", "nope"),), (("x-timeout", "-1"),),
)  # fmt: skip
_SCHEMAS = (tei(), health(), reflection("grpc.reflection.v1"),
            reflection("grpc.reflection.v1alpha"))  # fmt: skip


@st.composite
def kserve_grpc(draw: st.DrawFn, port: str) -> GrpcShot:
    """One call. port: of the gateway, or Triton's own."""
    if draw(st.integers(0, 4)) == 4:
        name = draw(st.sampled_from(_OTHERS))
        message = getattr(pb, f"{name}Request", pb.ServerLiveRequest)()
        draw(_filled(message))
        if name.startswith("RepositoryModel"):
            message.model_name = "nobody"
        raw = message.SerializeToString()
        return GrpcShot(port, _KSERVE + name, (draw(_maybe_damaged(raw)),), False, _with_key(draw))
    is_stream = draw(st.booleans())
    name = "ModelStreamInfer" if is_stream else "ModelInfer"
    count = draw(st.integers(0, 4)) if is_stream else 1
    messages = tuple(draw(_maybe_damaged(draw(_inference()))) for _ in range(count))
    return GrpcShot(port, _KSERVE + name, messages, is_stream, _with_key(draw))


@st.composite
def other_grpc(draw: st.DrawFn) -> GrpcShot:
    """A call of the gateway's other services."""
    schema = draw(st.sampled_from([_SCHEMAS[0]] * 5 + [*_SCHEMAS]))
    service = draw(st.sampled_from(sorted(schema.services)))
    method = draw(st.sampled_from(sorted(schema.services[service])))
    request, response = schema.services[service][method]
    is_stream = request.startswith("stream ") or response.startswith("stream ")
    messages = []
    for _ in range(draw(st.integers(0, 4)) if is_stream else 1):
        message = schema[request.split()[-1]]()
        draw(_filled(message))
        messages.append(draw(_maybe_damaged(message.SerializeToString())))
    path = f"/{schema.package}.{service}/{method}"
    return GrpcShot("gateway-grpc-port", path, tuple(messages), is_stream, _with_key(draw))


def _with_key(draw: st.DrawFn) -> tuple[tuple[str, str], ...]:
    key = f"Bearer {target.KEY}" if draw(st.integers(0, 14)) < 14 else "Bearer x"
    return (("authorization", key), *draw(st.sampled_from(_METADATA)))


@st.composite
def _inference(draw: st.DrawFn) -> bytes:
    model = draw(st.sampled_from([*INPUTS, *INPUTS, "nobody"]))
    message = pb.ModelInferRequest(model_name=model, id="a")
    for one in INPUTS.get(model, ()):
        message.inputs.add(name=one["name"], datatype=one["datatype"], shape=one["shape"])
        message.raw_input_contents.append(packed(one["datatype"], one["data"]))
    for _ in range(draw(st.integers(0, 2))):
        _change(draw, message)
    return message.SerializeToString()


def _change(draw: st.DrawFn, message: Any) -> None:
    size = draw(st.sampled_from(_INTS))
    tensor = message.inputs.add() if not message.inputs else message.inputs[0]
    match draw(st.integers(0, 9)):
        case 0:
            tensor.shape[:] = [size] * draw(st.integers(0, 3))
        case 1:
            tensor.datatype = draw(st.sampled_from(["", "BYTES", "FP64", "BF16", "nix", "BOOL"]))
        case 2:
            message.raw_input_contents.append(draw(st.binary(max_size=20)))
        case 3 if message.raw_input_contents:
            message.raw_input_contents[0] = draw(st.binary(max_size=20))
        case 4:
            draw(
                _filled(message.parameters[draw(st.sampled_from(["timeout", "sequence_id", "x"]))])
            )
        case 5:
            message.model_version = draw(st.sampled_from(["-1", "x", "9" * 30, "1", " 1"]))
        case 6:
            tensor.name = draw(st.sampled_from(_TEXTS))
        case 7:
            draw(_filled(message.outputs.add()))
        case 8:
            draw(_filled(tensor))
        case _:
            draw(_filled(tensor.contents))


@st.composite
def _filled(draw: st.DrawFn, message: Any) -> Any:
    """Some fields of a message are set, each to something of its kind."""
    for field in message.DESCRIPTOR.fields:
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map or draw(st.integers(0, 2)) == 0:
            continue
        many = draw(st.integers(0, 3)) if field.is_repeated else 1
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for _ in range(many):
                inner = getattr(message, field.name)
                draw(_filled(inner.add() if field.is_repeated else inner))
            continue
        values = [draw(_scalar(field)) for _ in range(many)]
        if field.is_repeated:
            getattr(message, field.name).extend(values)
        else:
            setattr(message, field.name, values[0])
    return message


def _scalar(field: Any) -> st.SearchStrategy[Any]:
    kinds = FieldDescriptor
    if field.type == kinds.TYPE_STRING:
        return st.sampled_from(_TEXTS)
    if field.type == kinds.TYPE_BYTES:
        return st.binary(max_size=12)
    if field.type == kinds.TYPE_BOOL:
        return st.booleans()
    if field.type in (kinds.TYPE_FLOAT, kinds.TYPE_DOUBLE):
        return st.sampled_from([0.0, -1.0, 0.5, float("nan"), float("inf")])
    if field.type == kinds.TYPE_ENUM:
        return st.sampled_from([0, 1, 2, 99])
    wide = field.type in (kinds.TYPE_INT64, kinds.TYPE_UINT64)
    low = (
        0 if field.type in (kinds.TYPE_UINT32, kinds.TYPE_UINT64) else -(2 ** (63 if wide else 31))
    )
    high = 2**63 - 1 if wide else 2**31 - 1
    return st.sampled_from([value for value in _INTS if low <= value <= high])


def _maybe_damaged(raw: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(st.just(raw), st.just(raw), st.just(raw), bits_flipped(raw))
