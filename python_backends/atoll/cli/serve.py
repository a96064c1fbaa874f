"""``atoll serve``: any number of models in one server, until Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from atoll.catalogue import Detected, ServedModel, read_model
from atoll.cli.choose import choose
from atoll.cli.examples import example
from atoll.cli.flags import with_settings
from atoll.cli.tables import print_table
from atoll.config import Settings
from atoll.environment import variables
from atoll.errors import ConfigError, NotReady
from atoll.launcher import ServerOptions, ServerProcess
from atoll.launcher.gateway import GatewayOptions, GatewayProcess, missing_packages
from atoll.launcher.ports import MAX_PORT, check_distinct, check_free
from atoll.launcher.supervisor import Supervisor

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@with_settings
def serve(
    *,
    model_id: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of a checkpoint, hub id, or name of a catalogue entry; may be repeated. "
            "Without it: the two embedded models.",
            envvar=variables("model_id"),
        ),
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(
            help="Serve an existing model repository: the entries that --model-id names, or all."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address the gateway listens on; 0.0.0.0 for all networks.")
    ] = "127.0.0.1",
    triton_host: Annotated[
        str,
        typer.Option(
            help="Where Triton's own three ports listen. They have no key and no limits, and "
            "some requests crash the server: use the gateway, which offers KServe too."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            help="The gateway: OpenAI, Anthropic, Ollama, TEI, TGI, KServe; 0: none.",
            envvar=variables("port"), min=0, max=MAX_PORT,
        ),
    ] = 8080,
    gateway_grpc_port: Annotated[
        int,
        typer.Option(help="The gateway's gRPC: KServe and tei.v1; 0: none.", min=0, max=MAX_PORT),
    ] = 8081,
    api_key: Annotated[
        str,
        typer.Option(
            help="Comma-separated keys; the gateway requires one of them as a bearer token.",
            envvar=variables("api_key"),
        ),
    ] = "",
    cors_allow_origin: Annotated[
        str,
        typer.Option(
            help="Comma-separated origins that the gateway allows.",
            envvar=variables("cors_allow_origin"),
        ),
    ] = "",
    http_port: Annotated[
        int, typer.Option(help="Triton's KServe over HTTP.", min=1, max=MAX_PORT)
    ] = 8000,
    grpc_port: Annotated[
        int, typer.Option(help="Triton's KServe over gRPC.", min=1, max=MAX_PORT)
    ] = 8001,
    metrics_port: Annotated[
        int, typer.Option(help="Triton's and the models' Prometheus metrics.", min=1, max=MAX_PORT)
    ] = 8002,
    server: Annotated[
        str | None,
        typer.Option(
            "--server", "--tritonserver",
            help="A tritonserver to run instead of the wheel's: its path, "
            "or 'system' for the one on PATH.",
        ),
    ] = None,
    log_file: Annotated[
        Path | None, typer.Option(help="Write the server's complete log to this file.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show everything the server logs.")
    ] = False,
    startup_timeout: Annotated[
        float, typer.Option(help="Seconds within which every model must answer.")
    ] = 900,
    exit_timeout: Annotated[
        int, typer.Option(help="Seconds that running requests get to finish at shutdown.")
    ] = 10,
    watch_interval: Annotated[
        float,
        typer.Option(help="Seconds between requests that detect crashed models; 0: never."),
    ] = 15,
    allow_shared_memory: Annotated[
        bool,
        typer.Option(
            help="Let every client register shared memory of this machine; "
            "only for clients that you trust, on the same machine."
        ),
    ] = False,
    settings: dict[str, str],
) -> None:  # fmt: skip
    """Serve models until Ctrl-C. The settings below apply to every model of this server."""
    log = Console(stderr=True, soft_wrap=True)
    triton = {"--http-port": http_port, "--grpc-port": grpc_port, "--metrics-port": metrics_port}
    gateways = {"--port": port, "--gateway-grpc-port": gateway_grpc_port if port else 0}
    check_distinct({**gateways, **triton})
    choice = choose(model_id or [], repository, settings)
    for note in choice.notes:
        _shown(log)(note)
    process = ServerProcess(
        ServerOptions(
            entries=choice.entries,
            repository=choice.repository,
            names=choice.names,
            host=triton_host,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            server=server,
            log_file=log_file,
            verbose=verbose,
            startup_timeout_s=startup_timeout,
            exit_timeout_s=exit_timeout,
            watch_interval_s=watch_interval,
            allow_shared_memory=allow_shared_memory,
        ),
        show=lambda line: log.print(f"[triton] {line}", markup=False, highlight=False, style="dim"),
    )
    gateway = _gateway(
        process, host, port,
        {
            "grpc_port": str(gateway_grpc_port), "api_key": api_key,
            "cors_allow_origin": cors_allow_origin,
        },
    )  # fmt: skip
    if triton_host not in _LOOPBACK:
        _shown(log)(
            f"warning: Triton listens on {triton_host}: its ports {http_port}, {grpc_port} and "
            f"{metrics_port} ask for no key{', also not for --api-key' if api_key else ''}, check "
            "nothing, and can be made to end the server; "
            f"{'the' if gateway else 'a'} gateway's port has the same routes"
        )
    with _stoppable(process, log):
        _run(process, gateway, log)


def _gateway(
    process: ServerProcess, host: str, port: int, settings: Mapping[str, str]
) -> GatewayProcess | None:
    """The server's gateway, not started yet; None if it is turned off.

    Raises:
        ConfigError: a package is missing, or the port is in use.
    """
    if port == 0:
        if host not in _LOOPBACK:
            raise ConfigError(
                f"--host {host} is where the gateway listens, and --port 0 starts none; "
                "Triton's own ports listen where --triton-host says"
            )
        return None
    missing = missing_packages()
    if missing:
        raise ConfigError(
            f"the gateway needs {', '.join(missing)}: pip install 'atoll-client[gateway]', "
            "or --port 0 for no gateway"
        )
    check_free(host, {"--port": port, "--gateway-grpc-port": int(settings["grpc_port"])})
    return GatewayProcess(
        GatewayOptions(
            server=process.grpc_url,
            metrics_url=process.metrics_url,
            host=host,
            port=port,
            grace_s=float(process.options.exit_timeout_s),
            settings=settings,
        )
    )


def _run(process: ServerProcess, gateway: GatewayProcess | None, log: Console) -> None:
    try:
        process.start()
        names = ", ".join(model.name for model in process.models)
        with log.status(f"starting tritonserver with {names}"):
            _wait_ready(process)
            if gateway is not None:
                gateway.start()
                gateway.wait_ready()
                process.on_lost = gateway.lose
        _announce(process, gateway, Console())
        Supervisor(process, lambda: [gateway.pid] if gateway is not None else [], _shown(log)).run()
    finally:
        if gateway is not None:
            gateway.stop()
        process.stop()


def _shown(log: Console) -> Callable[[str], None]:
    return lambda text: log.print(text, markup=False, highlight=False, style="yellow")


def _wait_ready(process: ServerProcess) -> None:
    try:
        process.wait_ready()
    except NotReady as error:
        hint = "" if process.options.verbose else "\n--verbose shows everything the server logs"
        raise NotReady(f"{error}{hint}") from error


@contextlib.contextmanager
def _stoppable(process: ServerProcess, log: Console) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM, SIGHUP) stops the server, the second kills it."""
    is_stopping = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if is_stopping:
            process.kill()
            return
        is_stopping = True
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    except KeyboardInterrupt:
        log.print("stopped", style="dim")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _gateway_lines(gateway: GatewayProcess) -> list[str]:
    options = gateway.options
    grpc_port = options.settings["grpc_port"]
    grpc = f", gRPC {options.client_host}:{grpc_port}" if grpc_port != "0" else ""
    return [f"gateway  {options.url}{grpc}"]


def _announce(process: ServerProcess, gateway: GatewayProcess | None, out: Console) -> None:
    """Prints what is served, where, and an example request."""
    rows, notes = [], []
    for model in process.models:
        folders = process.checkpoints.get(model.name, {})
        for version in model.versions:
            name = f"{model.name}, version {version}" if len(model.versions) > 1 else model.name
            found = _detected(model, folders[version]) if version in folders else None
            what = (found.architecture, found.runs_on) if found else ("", "")
            pooling = f" ({found.pooling})" if found and found.pooling else ""
            rows.append((name, f"{model.kind}{pooling}", *what, model.checkpoint(version)))
            notes += [f"{name}: {note}" for note in (found.notes if found else ())]
    print_table(
        ("model", "task", "architecture", "runs on", "checkpoint"), rows,
        title=f"Atoll, ready after {process.startup_s:.1f} s",
    )  # fmt: skip
    for note in notes:
        out.print(note, markup=False, highlight=False, style="yellow", soft_wrap=True)
    lines = [
        *(_gateway_lines(gateway) if gateway is not None else []),
        f"Triton   {process.http_url}, gRPC {process.grpc_url}, metrics {process.metrics_url}",
        *(f"\n{example(model, process.http_url)}" for model in process.models),
        "\nCtrl-C stops everything.",
    ]
    # Not through the console, which would wrap and colour text that users copy.
    print("\n".join(lines), flush=True)


def _detected(model: ServedModel, folder: Path) -> Detected:
    """How the server classified the checkpoint, which it has loaded for its entry's task."""
    settings = Settings.read(model.parameters)
    return read_model(
        folder, model.task, settings.dense_path, settings.pooling,
        reranker_template=settings.reranker_template,
    )  # fmt: skip
