"""The key with which the launcher asks its models for what no client may ask for."""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from typing import Any

from atoll.errors import ValidationError

# The environment variable of the models' processes; other users cannot read it.
CONTROL_KEY = "ATOLL_CONTROL_KEY"


def check_key(question: Mapping[str, Any]) -> None:
    """Raises ValidationError: a control request has not the launcher's key."""
    key, given = os.environ.get(CONTROL_KEY, ""), str(question.get("key") or "")
    if not key or not hmac.compare_digest(given.encode("utf-8", "replace"), key.encode()):
        raise ValidationError("control: only the server's launcher may change adapters")
