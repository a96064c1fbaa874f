"""Reads config.json keys that were renamed over the years, and refuses values we do not know."""

from collections.abc import Mapping
from typing import Any

from atoll.errors import ConfigError


def pick(raw: Mapping[str, Any], *names: str, default: Any = None) -> Any:
    """The first of ``names`` that is there and not null.

    Raises:
        ConfigError: none is, and there is no default.
    """
    for name in names:
        if raw.get(name) is not None:
            return raw[name]
    if default is None:
        raise ConfigError(f"config.json has none of {list(names)}")
    return default


def only(raw: Mapping[str, Any], name: str, *allowed: Any) -> Any:
    """``raw[name]``, which must be one of ``allowed``; the first where it is absent or null.

    Raises:
        ConfigError: names the key, the value and what is allowed.
    """
    value = raw.get(name)
    if value is None:
        return allowed[0]
    if value not in allowed:
        raise ConfigError(f"config.json: {name} is {value!r}; supported: {list(allowed)}")
    return value
