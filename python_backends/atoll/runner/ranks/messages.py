"""What rank 0 and its followers say to each other, as plain bytes: a line of JSON, then arrays.

No pickle: a message can only be data, whichever machine it comes from. Rank 0 says everything that
is decided; a follower never looks at a clock or at its memory to decide something.

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


@dataclass(frozen=True)
class Hello:
    """A follower's first message. version: of Atoll, which must be rank 0's."""

    rank: int
    version: str


@dataclass(frozen=True)
class Load:
    """Everything that is known of the model before it is loaded; answered by ``Done``.

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
    """All ranks are there: the process group is joined and the weights are read; then ``Done``."""


@dataclass(frozen=True)
class Cache:
    """A cache of so many blocks replaces the one before; steps follow."""

    num_blocks: int
    block_size: int


@dataclass(frozen=True)
class Measure:
    """The cache is given up; answered by ``Spare``."""


@dataclass(frozen=True)
class Capture:
    """Decoding steps of up to so many requests are captured as graphs."""

    max_batch_size: int


@dataclass(frozen=True)
class Step:
    """A step is computed. Without ``sampling``: rank 0 alone chooses tokens."""

    step: StepInput


@dataclass(frozen=True)
class Reset:
    """The cache starts over."""


@dataclass(frozen=True)
class Bye:
    """The model is unloaded, and the follower ends."""


@dataclass(frozen=True)
class Done:
    """The sender has done what it was asked for."""


@dataclass(frozen=True)
class Spare:
    """Bytes that a follower's cache may take."""

    num_bytes: int


@dataclass(frozen=True)
class Alive:
    """Sent by a follower every second, whatever it does."""


@dataclass(frozen=True)
class Failed:
    """The sender cannot go on."""

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
