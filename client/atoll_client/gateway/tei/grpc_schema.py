"""Protobuf messages of the gRPC services, made at run time from the tables below.

Generated code would tie the gateway to one major version of protobuf. Fields are numbered in the
order of the tables. The interfaces are TEI's (package ``tei.v1``), gRPC's health protocol and
gRPC's server reflection.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_CUT = "string inputs, bool truncate"
_DIRECTION = "TruncationDirection truncation_direction"
_TEI_MESSAGES = {
    "InfoRequest": "",
    "InfoResponse": "string version, string sha, optional string docker_label, string model_id,"
    "optional string model_sha, string model_dtype, ModelType model_type,"
    "uint32 max_concurrent_requests, uint32 max_input_length, uint32 max_batch_tokens,"
    "optional uint32 max_batch_requests, uint32 max_client_batch_size, uint32 tokenization_workers",
    "Metadata": "uint32 compute_chars, uint32 compute_tokens, uint64 total_time_ns,"
    "uint64 tokenization_time_ns, uint64 queue_time_ns, uint64 inference_time_ns",
    "EmbedRequest": f"{_CUT}, bool normalize, {_DIRECTION}, optional string prompt_name,"
    "optional uint32 dimensions",
    "EmbedResponse": "repeated float embeddings, Metadata metadata",
    "EmbedSparseRequest": f"{_CUT}, {_DIRECTION}, optional string prompt_name",
    "SparseValue": "uint32 index, float value",
    "EmbedSparseResponse": "repeated SparseValue sparse_embeddings, Metadata metadata",
    "EmbedAllRequest": f"{_CUT}, {_DIRECTION}, optional string prompt_name",
    "TokenEmbedding": "repeated float embeddings",
    "EmbedAllResponse": "repeated TokenEmbedding token_embeddings, Metadata metadata",
    "PredictRequest": f"{_CUT}, bool raw_scores, {_DIRECTION}",
    "PredictPairRequest": f"repeated {_CUT}, bool raw_scores, {_DIRECTION}",
    "Prediction": "float score, string label",
    "PredictResponse": "repeated Prediction predictions, Metadata metadata",
    "RerankRequest": "string query, repeated string texts, bool truncate, bool raw_scores,"
    f"bool return_text, {_DIRECTION}",
    "RerankStreamRequest": "string query, string text, bool truncate, bool raw_scores,"
    f"bool return_text, {_DIRECTION}",
    "Rank": "uint32 index, optional string text, float score",
    "RerankResponse": "repeated Rank ranks, Metadata metadata",
    "EncodeRequest": "string inputs, bool add_special_tokens, optional string prompt_name",
    "SimpleToken": "uint32 id, string text, bool special, optional uint32 start,"
    "optional uint32 stop",
    "EncodeResponse": "repeated SimpleToken tokens",
    "DecodeRequest": "repeated uint32 ids, bool skip_special_tokens",
    "DecodeResponse": "string text",
}
_TEI_ENUMS = {
    "ModelType": ("MODEL_TYPE_EMBEDDING", "MODEL_TYPE_CLASSIFIER", "MODEL_TYPE_RERANKER"),
    "TruncationDirection": ("TRUNCATION_DIRECTION_RIGHT", "TRUNCATION_DIRECTION_LEFT"),
}
# Service -> method -> request and response; "stream" precedes those that are streams.
_TEI_SERVICES = {
    "Info": {"Info": ("InfoRequest", "InfoResponse")},
    "Embed": {
        "Embed": ("EmbedRequest", "EmbedResponse"),
        "EmbedStream": ("stream EmbedRequest", "stream EmbedResponse"),
        "EmbedSparse": ("EmbedSparseRequest", "EmbedSparseResponse"),
        "EmbedSparseStream": ("stream EmbedSparseRequest", "stream EmbedSparseResponse"),
        "EmbedAll": ("EmbedAllRequest", "EmbedAllResponse"),
        "EmbedAllStream": ("stream EmbedAllRequest", "stream EmbedAllResponse"),
    },
    "Predict": {
        "Predict": ("PredictRequest", "PredictResponse"),
        "PredictPair": ("PredictPairRequest", "PredictResponse"),
        "PredictStream": ("stream PredictRequest", "stream PredictResponse"),
        "PredictPairStream": ("stream PredictPairRequest", "stream PredictResponse"),
    },
    "Rerank": {
        "Rerank": ("RerankRequest", "RerankResponse"),
        "RerankStream": ("stream RerankStreamRequest", "RerankResponse"),
    },
    "Tokenize": {
        "Tokenize": ("EncodeRequest", "EncodeResponse"),
        "TokenizeStream": ("stream EncodeRequest", "stream EncodeResponse"),
        "Decode": ("DecodeRequest", "DecodeResponse"),
        "DecodeStream": ("stream DecodeRequest", "stream DecodeResponse"),
    },
}
_REFLECTION_MESSAGES = {
    "ExtensionRequest": "string containing_type, int32 extension_number",
    "ServerReflectionRequest": "string host, unused, string file_by_filename,"
    "string file_containing_symbol, ExtensionRequest file_containing_extension,"
    "string all_extension_numbers_of_type, string list_services",
    "FileDescriptorResponse": "repeated bytes file_descriptor_proto",
    "ServiceResponse": "string name",
    "ListServiceResponse": "repeated ServiceResponse service",
    "ErrorResponse": "int32 error_code, string error_message",
    "ServerReflectionResponse": "string valid_host, ServerReflectionRequest original_request,"
    "unused, FileDescriptorResponse file_descriptor_response, unused,"
    "ListServiceResponse list_services_response, ErrorResponse error_response",
}
# The fields of each oneof.
_REFLECTION_CHOICES = {
    "ServerReflectionRequest": ("message_request", range(3, 8)),
    "ServerReflectionResponse": ("message_response", range(4, 8)),
}


class Schema:
    """One package: its messages by name, its services, and its file descriptor."""

    def __init__(
        self,
        package: str,
        messages: dict[str, str],
        services: dict[str, dict[str, tuple[str, str]]],
        enums: dict[str, tuple[str, ...]] | None = None,
        choices: dict[str, tuple[str, range]] | None = None,
    ) -> None:
        self.package, self.services = package, services
        self.file = descriptor_pb2.FileDescriptorProto(
            name=f"{package.replace('.', '/')}.proto", package=package, syntax="proto3"
        )
        for name, members in (enums or {}).items():
            enum = self.file.enum_type.add(name=name)
            for number, member in enumerate(members):
                enum.value.add(name=member, number=number)
        for name, fields in messages.items():
            _add_message(self.file, name, fields, enums or {}, (choices or {}).get(name))
        for name, methods in services.items():
            _add_service(self.file, name, methods)
        pool = descriptor_pool.DescriptorPool()
        pool.Add(self.file)
        self._classes = {
            name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
            for name in messages
        }

    def __getitem__(self, name: str) -> Any:
        """A message's class."""
        return self._classes[name]

    def symbols(self) -> list[str]:
        """The full names of all messages, services, enums and methods."""
        found = [*self._classes, *self.services, *(enum.name for enum in self.file.enum_type)]
        found += [f"{s}.{method}" for s, methods in self.services.items() for method in methods]
        return [f"{self.package}.{name}" for name in found]


def tei() -> Schema:
    """Text Embeddings Inference."""
    return Schema("tei.v1", _TEI_MESSAGES, _TEI_SERVICES, _TEI_ENUMS)


def health() -> Schema:
    """gRPC's health protocol."""
    return Schema(
        "grpc.health.v1",
        {"HealthCheckRequest": "string service", "HealthCheckResponse": "ServingStatus status"},
        {"Health": {"Check": ("HealthCheckRequest", "HealthCheckResponse")}},
        {"ServingStatus": ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")},
    )


def reflection(package: str) -> Schema:
    """gRPC's server reflection; clients use version v1 or v1alpha of the package."""
    methods = {
        "ServerReflectionInfo": (
            "stream ServerReflectionRequest", "stream ServerReflectionResponse",
        ),
    }  # fmt: skip
    return Schema(
        package, _REFLECTION_MESSAGES, {"ServerReflection": methods}, None, _REFLECTION_CHOICES
    )


def _add_message(
    file: Any, name: str, fields: str, enums: Any, choice: tuple[str, range] | None
) -> None:
    message = file.message_type.add(name=name)
    if choice is not None:
        message.oneof_decl.add(name=choice[0])
    for number, text in enumerate(filter(None, fields.split(",")), 1):
        *label, kind, field_name = ("", *text.split()) if " " in text.strip() else ("", "", "")
        if not field_name:
            continue
        field = message.field.add(name=field_name, number=number)
        field.label = field.LABEL_REPEATED if "repeated" in label else field.LABEL_OPTIONAL
        if kind in _SCALARS:
            field.type = getattr(field, f"TYPE_{kind.upper()}")
        else:
            field.type = field.TYPE_ENUM if kind in enums else field.TYPE_MESSAGE
            field.type_name = f".{file.package}.{kind}"
        if choice is not None and number in choice[1]:
            field.oneof_index = 0
        if "optional" in label:
            # proto3 implements "optional" as a oneof with one field.
            field.oneof_index = len(message.oneof_decl)
            field.proto3_optional = True
            message.oneof_decl.add(name=f"_{field_name}")


def _add_service(file: Any, name: str, methods: dict[str, tuple[str, str]]) -> None:
    service = file.service.add(name=name)
    for method, (request, response) in methods.items():
        service.method.add(
            name=method,
            input_type=f".{file.package}.{request.split()[-1]}",
            output_type=f".{file.package}.{response.split()[-1]}",
            client_streaming="stream " in request,
            server_streaming="stream " in response,
        )


_SCALARS = ("string", "bytes", "bool", "float", "int32", "uint32", "uint64")
