"""The messages between rank 0 and its followers, as plain bytes: a line of JSON, then arrays.

No pickle, so a message can only be data, even from another machine. Every decision is made by rank
0 and sent in a message; followers decide nothing by time or by their own memory.

    {"kind": "Step"}\\n<StepInput as runner.frames writes it>
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from atoll.errors import ConfigError
from atoll.runner.step_input import StepInput

# Exit statuses of a follower: it can be started again, or another attempt would fail, too.
LOST, REFUSED = 1, 2


@dataclass(frozen=True)
class Hello:
    """A follower's first message. version: Atoll's, which must be the same as rank 0's."""

    rank: int
    version: str


@dataclass(frozen=True)
class Load:
    """Describes the model before it is loaded; answered by ``Done``.

    settings: every field of ``Settings``. folder: rank 0's checkpoint. digest: of its config.json.
    device, size, num_nodes: see ``RankLayout``. store: see ``ranks.group``.
    """

    settings: Mapping[str, Any]
    folder: str
    digest: str
    device: str
    size: int
    num_nodes: int
    store: str


@dataclass(frozen=True)
class Join:
    """Joins the process group and reads the weights; answered by ``Done``."""


@dataclass(frozen=True)
class Cache:
    """Allocates a cache, which replaces the previous one; steps follow.

    num_state_slots: of recurrent layers.
    """

    num_blocks: int
    block_size: int
    num_state_slots: int = 0


@dataclass(frozen=True)
class Measure:
    """Releases the cache and measures the memory; answered by ``Spare``."""


@dataclass(frozen=True)
class Capture:
    """Captures decoding steps of up to ``max_batch_size`` requests as graphs."""

    max_batch_size: int


@dataclass(frozen=True)
class Step:
    """Computes a step, which has no ``sampling``, since only rank 0 chooses tokens."""

    step: StepInput


@dataclass(frozen=True)
class Reset:
    """Replaces the cache by an empty one."""


@dataclass(frozen=True)
class Bye:
    """Ends the follower: the model is being unloaded."""


@dataclass(frozen=True)
class Done:
    """The request was carried out."""


@dataclass(frozen=True)
class Spare:
    """The bytes that a follower's cache may use."""

    num_bytes: int


@dataclass(frozen=True)
class Alive:
    """Sent by a follower every second, even while it is busy."""


@dataclass(frozen=True)
class Failed:
    """The sender cannot continue."""

    reason: str


Message = (
    Hello | Load | Join | Cache | Measure | Capture | Step | Reset | Bye
    | Done | Spare | Alive | Failed
)  # fmt: skip
_KINDS: Mapping[str, type[Message]] = {kind.__name__: kind for kind in get_args(Message)}
_STEP = b'{"kind": "Step"}\n'


def to_bytes(message: Message) -> bytes:
    """The message as it is sent."""
    if isinstance(message, Step):
        return _STEP + message.step.to_bytes()
    values = {f.name: getattr(message, f.name) for f in dataclasses.fields(message)}
    return json.dumps({"kind": type(message).__name__, **values}).encode() + b"\n"


def from_bytes(data: bytes) -> Message:
    """The message that ``to_bytes`` was given.

    Raises:
        ConfigError: it is not one of ours.
    """
    head, _, rest = data.partition(b"\n")
    try:
        values = json.loads(head)
        kind = _KINDS[values.pop("kind")]
        if kind is Step:
            return Step(StepInput.from_bytes(rest))
        return kind(**values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"a message between ranks cannot be read: {error!r}") from None
