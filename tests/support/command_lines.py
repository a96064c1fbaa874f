"""Whether containers of manifests would start: commands, read by the programs' own parsers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import typer

from atoll.cli.app import app
from atoll.cli.flags import unknown_variables
from atoll.config import Settings
from atoll_client.gateway.core.settings import GatewaySettings

# Kubernetes' and Ray's own.
_CONTROLLERS = {"LWS_GROUP_SIZE": "2", "LWS_LEADER_ADDRESS": "leader", "LWS_WORKER_INDEX": "1"}


def check_command(container: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command makes of its flags and variables; fails where it would refuse them."""
    (program,) = container["command"]
    arguments = [str(argument) for argument in container["args"]]
    environment = {one["name"]: one.get("value", "0123456789abcdef") for one in container["env"]}
    if program == "atoll-gateway":
        return vars(GatewaySettings.read(arguments, environment))
    assert program == "atoll"
    return parse(arguments, environment, monkeypatch)


def parse(
    arguments: Sequence[str], environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Values of the flags of ``atoll``, from the command line and the environment."""
    group: Any = typer.main.get_command(app)
    assert unknown_variables(group, environment) == []
    with monkeypatch.context() as patched:
        for name, text in {**_CONTROLLERS, **environment}.items():
            patched.setenv(name, text)
        context = group.commands[arguments[0]].make_context(arguments[0], list(arguments[1:]))
        # In the models' own processes, which read what is no flag's.
        Settings.read({}, {**environment, "ATOLL_MODEL_ID": ""})
        GatewaySettings.read([], environment)
    found: dict[str, Any] = context.params
    return found
