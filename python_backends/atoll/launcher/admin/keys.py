"""The admin key: read from a file that only its owner can read, and compared in constant time."""

from __future__ import annotations

import hmac
import re
import stat
from pathlib import Path

from atoll.errors import ConfigError

_BEARER = re.compile(r"bearer\s+", re.IGNORECASE)
_SHORTEST = 16


def read_key(path: Path) -> str:
    """The key in a file, without blanks around it.

    Raises:
        ConfigError: it cannot be read, others can read it, or it is no key.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the admin key cannot be read from {path}: {error}") from error
    if mode & 0o077:
        raise ConfigError(
            f"{path} holds the admin key, and others can read it (mode {mode:o}): chmod 600 {path}"
        )
    if len(key) < _SHORTEST or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{path} must hold one line of at least {_SHORTEST} printable ASCII characters, such "
            "as `openssl rand -hex 32` writes"
        )
    return key


def is_key(authorization: str, key: str) -> bool:
    """Whether a header ``authorization`` has the key, as a bearer token."""
    scheme = _BEARER.match(authorization)
    given = authorization[scheme.end() :].strip() if scheme else ""
    return hmac.compare_digest(given.encode("utf-8", "replace"), key.encode())
