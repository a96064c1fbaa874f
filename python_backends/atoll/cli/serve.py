"""``atoll serve``: any number of models in one server, until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from atoll.cli.choose import choose
from atoll.cli.flags import with_settings
from atoll.cli.output import Output, output_of
from atoll.environment import PREFIX, variables
from atoll.errors import ConfigError, NotReady
from atoll.launcher import ServerOptions, ServerProcess
from atoll.launcher.gateway import GatewayOptions, GatewayProcess, batch_folder, missing_packages
from atoll.launcher.ports import MAX_PORT, check_distinct, check_free
from atoll.launcher.supervisor import Supervisor
from atoll.logs import SERVER_WIDE, LogOptions, configure

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
    log = _log_options(settings)
    out = output_of(log)
    triton = {"--http-port": http_port, "--grpc-port": grpc_port, "--metrics-port": metrics_port}
    gateways = {"--port": port, "--gateway-grpc-port": gateway_grpc_port if port else 0}
    check_distinct({**gateways, **triton})
    own = {name: text for name, text in settings.items() if name not in SERVER_WIDE}
    choice = choose(model_id or [], repository, own)
    for note in choice.notes:
        out.note(note)
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
            log=log,
        ),
        show=out.triton,
        tell=out.phase,
    )
    gateway = _gateway(
        process, host, port,
        {
            "grpc_port": str(gateway_grpc_port), "api_key": api_key,
            "cors_allow_origin": cors_allow_origin, **batch_folder(port),
        },
    )  # fmt: skip
    if triton_host not in _LOOPBACK:
        out.note(
            f"warning: Triton listens on {triton_host}: its ports {http_port}, {grpc_port} and "
            f"{metrics_port} ask for no key{', also not for --api-key' if api_key else ''}, check "
            "nothing, and can be made to end the server; "
            f"{'the' if gateway else 'a'} gateway's port has the same routes"
        )
    with _stoppable(process, out):
        _run(process, gateway, out)


def _log_options(settings: Mapping[str, str]) -> LogOptions:
    """How everything logs; flags are put into the environment, for the processes of all models."""
    for name in SERVER_WIDE:
        if name in settings:
            os.environ[PREFIX + name.upper()] = settings[name]
    options = LogOptions.read({})
    configure(options, {"process": "launcher"})
    return options


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


def _run(process: ServerProcess, gateway: GatewayProcess | None, out: Output) -> None:
    try:
        with out.starting():
            process.start()
            _wait_ready(process)
            if gateway is not None:
                gateway.start()
                gateway.wait_ready()
                process.on_lost = gateway.lose
        out.ready(process, gateway)
        Supervisor(process, lambda: [gateway.pid] if gateway is not None else [], out.note).run()
    finally:
        if gateway is not None:
            gateway.stop()
        process.stop()


def _wait_ready(process: ServerProcess) -> None:
    try:
        process.wait_ready()
    except NotReady as error:
        hint = "" if process.options.verbose else "\n--verbose shows everything the server logs"
        raise NotReady(f"{error}{hint}") from error


@contextlib.contextmanager
def _stoppable(process: ServerProcess, out: Output) -> Iterator[None]:
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
        out.stopped()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
