"""What the launcher says of models that its server does not have now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Told:
    """asleep: names of models that sleep (``sleepers``), each with the model that has to be loaded.
    unloaded: those that were unloaded deliberately, and are not awaited."""

    asleep: Mapping[str, str] = field(default_factory=dict)
    unloaded: frozenset[str] = frozenset()
