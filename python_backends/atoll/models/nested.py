"""Checkpoints of models for images or sound besides text, of which the text part is served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.errors import UnsupportedModel
from atoll.models.families import NESTED
from atoll.models.unsupported import other_parts
from atoll.weights.json_fields import Fields
from atoll.weights.text_part import text_part


def text_model(raw: Mapping[str, Any], source: str = "config.json") -> Mapping[str, Any]:
    """A config.json as that of its text part, if that is served alone; else as it is.

    Raises:
        ConfigError: text_config is missing, or no object.
        UnsupportedModel: its model_type is none that is served inside of this model.
    """
    kinds = NESTED.get(str(raw.get("model_type")))
    if kinds is None:
        return raw
    fields = Fields(raw, source)
    inner = fields.inside("text_config")
    if not inner.raw:
        raise fields.wrong("the config of its text part", "text_config")
    kind = inner.text("model_type", default=kinds[0])
    if kind not in kinds:
        raise UnsupportedModel(
            f"{inner.source}: model_type is {kind!r}; supported in {raw['model_type']!r}: "
            + ", ".join(kinds)
        )
    return {**text_part(raw), "model_type": kind}


def notes(raw: Mapping[str, Any]) -> list[str]:
    """What a user should know of a config.json with other parts, a sentence each."""
    parts = ", ".join(other_parts(raw))
    if raw.get("model_type") not in NESTED or not parts:
        return []
    return [f"only its text part is served, without {parts}: images and sound are refused"]
