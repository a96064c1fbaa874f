"""What ``atoll ps`` shows: every model of a server, its state, memory, requests and adapters."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from atoll import __version__
from atoll.catalogue import ServedModel
from atoll.errors import AtollError
from atoll.launcher.admin.activity import Activity
from atoll.launcher.admin.control import ModelControl
from atoll.launcher.admin.loading import memory_of
from atoll.launcher.stubs import Stub, find_stubs

# A model that is busy answers later; what only it knows is then left out.
_ASK_S = 2.0
_STATES = {"READY": "ready", "UNAVAILABLE": "failed", "LOADING": "loading"}


def report(
    control: ModelControl, activity: Activity, about: Mapping[str, Any], asleep: Collection[str]
) -> dict[str, Any]:
    """about: what is known of the server besides. asleep: names of models that sleep."""
    process = control.process
    server = {"id": process.id, "version": __version__, "restarts": process.num_restarts, **about}
    try:
        states, pid = control.served.probe.states(), process.pid
    except AtollError as error:
        return {"server": {**server, "state": str(error)}, "models": []}
    activity.look()
    loaded, known = control.served.loaded(), control.served.known()
    others = [n for n in known if n in process.options.unloaded or n in control.served.busy]
    models = [*loaded.values(), *(known[n] for n in sorted(others) if n not in loaded)]
    stubs = [stub for stub in find_stubs(pid) if stub.is_running()]
    with ThreadPoolExecutor(8) as executor:
        rows = executor.map(
            lambda model: _row(
                control, activity, model, states.get(model.name, ("", "")),
                [stub for stub in stubs if stub.model == model.name], model.name in loaded,
            ),
            models,
        )  # fmt: skip
        found = list(rows)
    for row in found:
        if row["state"] == "unloaded" and row["name"] in asleep:
            row["state"] = "asleep"
    return {"server": {**server, "state": "running", "pid": pid}, "models": found}


def _row(
    control: ModelControl, activity: Activity, model: ServedModel, found: tuple[str, str],
    stubs: list[Stub], is_loaded: bool,
) -> dict[str, Any]:  # fmt: skip
    row: dict[str, Any] = {
        "name": model.name, "kind": model.kind, "versions": list(model.versions),
        "checkpoint": model.parameters.get("model_id"), "state": "unloaded",
    }  # fmt: skip
    if doing := control.served.busy.get(model.name):
        row["state"] = doing
    elif is_loaded:
        row["state"] = _STATES.get(found[0], found[0].lower() or "unknown")
        if found[1]:
            row["reason"] = found[1]
    row["processes"] = [stub.pid for stub in stubs]
    row["memory_bytes"] = sum(memory_of(stub.pid) for stub in stubs)
    if not is_loaded:
        return row
    row["running"], row["waiting"] = activity.queue(model)
    row["idle_s"] = round(activity.idle_s(model.name), 1)
    if stubs:
        row["uptime_s"] = round(time.time() - min(stub.created for stub in stubs), 1)
    try:
        facts = control.served.probe.ask(model, {"op": "info"}, _ASK_S)
    except AtollError:
        return row
    wanted = ("device", "dtype", "num_shard", "adapters", "max_total_tokens", "max_input_tokens")
    return {**row, **{name: facts[name] for name in wanted if facts.get(name) is not None}}
