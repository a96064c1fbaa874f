"""Messages between ranks are plain data, and arrive as they were sent."""

import dataclasses
import json
from typing import Any, get_args

import numpy as np
import pytest

from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.runner.ranks import messages
from atoll.runner.step_input import StepInput
from atoll.runner.warm_up import warm_up_steps

STEPS = [*warm_up_steps(9, 4, 2), *warm_up_steps(9, 4, 1, start=2)]
EXAMPLES: dict[str, Any] = {
    "int": 3, "str": "a\nb ø", "Mapping[str, Any]": dataclasses.asdict(Settings(model_id="x")),
    "StepInput": STEPS[0],
}  # fmt: skip


@pytest.mark.parametrize("kind", get_args(messages.Message), ids=lambda kind: kind.__name__)
def test_a_message_arrives_as_it_was_sent(kind: Any) -> None:
    sent = kind(*(EXAMPLES[str(field.type)] for field in dataclasses.fields(kind)))
    found = messages.from_bytes(messages.to_bytes(sent))
    assert type(found) is kind
    if not isinstance(sent, messages.Step):
        assert found == sent


@pytest.mark.parametrize("step", STEPS, ids=range(len(STEPS)))
def test_a_step_arrives_as_it_was_sent(step: StepInput) -> None:
    found = messages.from_bytes(messages.to_bytes(messages.Step(step)))
    assert isinstance(found, messages.Step) and found.step.to_bytes() == step.to_bytes()
    assert np.array_equal(found.step.token_ids, step.token_ids)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n", b"[]\n", b"{}\n", b'{"kind": "os.system"}\n', b'{"kind": "Cache"}\n',
        b'{"kind": "Reset", "more": 1}\n', b"\x80\x04K\x01.", b'{"kind": "Step"}\n123',
        messages.to_bytes(messages.Step(STEPS[0]))[:-40],
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        messages.from_bytes(data)


def test_settings_survive() -> None:
    settings = Settings(model_id="x", num_shard=2, sharded=True, shard_timeout_s=1.5)
    text = json.dumps(dataclasses.asdict(settings))
    assert Settings(**json.loads(text)) == settings
