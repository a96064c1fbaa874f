"""What manages the models of ``atoll serve`` while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from atoll.cli.choose import entry_beside
from atoll.launcher import ServerProcess
from atoll.launcher.admin.adapters import AdapterControl
from atoll.launcher.admin.control import ModelControl
from atoll.launcher.admin.server import AdminServer
from atoll.launcher.gateway import GatewayProcess


def administration(
    process: ServerProcess, settings: Mapping[str, str], about: Mapping[str, str],
    say: Callable[[str], None], *, key: str | None, address: tuple[str, int] | None,
    lora_folder: Path | None, allows_adapters: bool,
) -> AdminServer:  # fmt: skip
    """A server's admin server, not started yet.

    settings: of the command line. about: for ``atoll ps``. say: called with a line for each event.
    """
    control = ModelControl(process, lambda model, own: entry_beside(model, own, settings))
    adapters = AdapterControl(control, lora_folder)
    process.on_loaded = lambda names: adapters.restore(names, say)
    found = {**about, "triton": process.http_url, "log": str(process.log_path)}
    admin = AdminServer(control, adapters, found, key, address, allows_adapters, say)

    def forget(names: Sequence[str]) -> None:
        adapters.forget(names)
        admin.idle.unloaded(names)

    control.on_unloaded = forget
    return admin


def connect_gateway(admin: AdminServer, gateway: GatewayProcess) -> None:
    """Tells the gateway of models that come, go and sleep."""
    process = admin.control.process
    admin.control.on_change = lambda names: gateway.renew(names, process.options.unloaded)
    admin.idle.on_asleep = gateway.sleep
