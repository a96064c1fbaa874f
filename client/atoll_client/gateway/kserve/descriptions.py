"""Descriptions of a server and its models: protobuf messages in the JSON format of Triton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from atoll_client.kserve import Message

# The extensions that the gateway offers too.
_CARRIED = (
    "classification", "sequence", "schedule_policy", "model_configuration", "binary_tensor_data",
    "parameters", "statistics", "generate",
)  # fmt: skip


def as_json(message: Message) -> Any:
    """All fields by name. Unlike protobuf's own JSON, 64-bit integers are numbers.

    Messages that are not set are left out.
    """
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            found[field.name] = {key: _value(field, value[key]) for key in sorted(value)}
        elif not field.has_presence and not isinstance(value, (str, bytes)) and _is_many(value):
            found[field.name] = [_value(field, item) for item in value]
        else:
            found[field.name] = _value(field, value)
    return found


def _is_many(value: Any) -> bool:
    return hasattr(value, "__len__")


def _value(field: Any, value: Any) -> Any:
    if hasattr(value, "DESCRIPTOR"):
        return as_json(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def server_metadata(found: Message) -> Message:
    """A server's metadata without the extensions that the gateway does not offer."""
    extensions = [name for name in found.extensions if name in _CARRIED]
    return pb.ServerMetadataResponse(name=found.name, version=found.version, extensions=extensions)


def merged(statistics: Sequence[Message]) -> Message:
    """The statistics of several servers, with counts and durations added up."""
    total = pb.ModelStatisticsResponse()
    by_version: dict[tuple[str, str], Message] = {}
    for answer in statistics:
        for one in answer.model_stats:
            key = (one.name, one.version)
            if key in by_version:
                _add(by_version[key], one)
            else:
                by_version[key] = total.model_stats.add()
                by_version[key].CopyFrom(one)
    return total


def _add(total: Message, other: Message) -> None:
    """Adds counts and durations; of two points in time, the later one is kept."""
    for field, value in other.ListFields():
        if field.name == "batch_stats":
            known = {one.batch_size: one for one in total.batch_stats}
            for batch in value:
                if batch.batch_size in known:
                    _add_batch(known[batch.batch_size], batch)
                else:
                    total.batch_stats.add().CopyFrom(batch)
        elif field.name == "response_stats":
            for key, stats in value.items():
                _add(total.response_stats[key], stats)
        elif field.name == "memory_usage":
            total.memory_usage.extend(value)
        elif field.name == "last_inference":
            total.last_inference = max(total.last_inference, value)
        elif hasattr(value, "DESCRIPTOR"):
            _add(getattr(total, field.name), value)
        elif isinstance(value, int):
            setattr(total, field.name, getattr(total, field.name) + value)


def _add_batch(total: Message, other: Message) -> None:
    size = total.batch_size
    _add(total, other)
    total.batch_size = size
