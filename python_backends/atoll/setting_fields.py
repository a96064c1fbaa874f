"""How one setting is declared, read from text, and checked; ``config`` has the settings."""

from __future__ import annotations

import math
import types
from collections.abc import Sequence
from dataclasses import Field, field
from typing import Any, get_args, get_origin

from atoll.errors import ConfigError

# The same words that flags accept.
_BOOLEANS = dict.fromkeys(("true", "1", "t", "yes", "y", "on"), True) | dict.fromkeys(
    ("false", "0", "f", "no", "n", "off"), False
)


def setting(
    default: Any, text: str, *, group: str, least: float | None = None, most: float | None = None,
    allowed: Sequence[str] = (),
) -> Any:  # fmt: skip
    """A field of ``Settings``. allowed: all values that it may have; empty: any."""
    facts = {"help": text, "group": group, "least": least, "most": most, "allowed": allowed}
    return field(default=default, metadata=facts)


def check(shown: str, setting: Field[Any], value: Any) -> None:
    """Raises ConfigError: a value out of range; ``shown`` is the user's name for the setting."""
    least, most = setting.metadata["least"], setting.metadata["most"]
    allowed = setting.metadata["allowed"]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{shown} is {value}; expected a finite number")
    if value is not None and least is not None and value < least:
        raise ConfigError(f"{shown} is {value}; the least allowed is {least}")
    if value is not None and most is not None and value > most:
        raise ConfigError(f"{shown} is {value}; the most allowed is {most}")
    if allowed and value not in allowed:
        raise ConfigError(f"{shown} is {value!r}; allowed: {', '.join(allowed)}")


def parse(shown: str, text: str, hint: Any) -> Any:
    """Converts ``text`` to a setting's type; for an optional type, to its first member.

    Raises:
        ConfigError: it cannot be converted; names the setting as ``shown``.
    """
    kind = get_args(hint)[0] if get_origin(hint) is types.UnionType else hint
    try:
        return _BOOLEANS[text.strip().lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ConfigError(f"{shown} is {text!r}; expected {kind.__name__}") from None
