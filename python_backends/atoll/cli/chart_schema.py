"""What the Helm chart's values.schema.json says of settings: names, types and limits of all that
there are, so that a misspelt one is refused before a pod starts."""

from __future__ import annotations

import json
import math
import types
from dataclasses import Field, fields
from typing import Any, get_args, get_origin, get_type_hints

from atoll.config import Settings
from atoll_client.gateway.core.settings import GatewaySettings

# Each is a value of the chart of its own, or follows from where the container runs.
_OWN = {"model_id", "num_shard", "num_nodes", "shard_port", "sharded", "huggingface_hub_cache"}
_OWN_OF_GATEWAY = {
    "server", "metrics_url", "hostname", "port", "grpc_port", "api_key", "shutdown_grace_s",
}  # fmt: skip
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def chart_schema(text: str) -> str:
    """The schema with its definitions of settings written anew. text: the schema as it is."""
    schema = json.loads(text)
    hints = get_type_hints(Settings)
    schema["definitions"]["settings"] = _object(
        {f.name: _property(f, hints[f.name]) for f in fields(Settings) if f.name not in _OWN}
    )
    hints = get_type_hints(GatewaySettings)
    schema["definitions"]["gatewaySettings"] = _object(
        {
            f.name: _property(f, hints[f.name])
            for f in fields(GatewaySettings)
            if f.name not in _OWN_OF_GATEWAY
        }
    )
    return json.dumps(schema, indent=2) + "\n"


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _property(setting: Field[Any], hint: Any) -> dict[str, Any]:
    kind = get_args(hint)[0] if get_origin(hint) is types.UnionType else hint
    found: dict[str, Any] = {"type": _TYPES[kind], "description": setting.metadata["help"]}
    if kind in (int, float):
        limits = {"minimum": setting.metadata["least"], "maximum": setting.metadata["most"]}
        found |= {
            name: limit
            for name, limit in limits.items()
            if limit is not None and not math.isinf(limit)
        }
    return found
