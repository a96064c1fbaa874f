"""``atoll serve``: any number of models in one server, until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from atoll.cli.administration import administration, connect_gateway
from atoll.cli.choose import choose
from atoll.cli.flags import with_settings
from atoll.cli.front import LOOPBACK, gateway_of
from atoll.cli.output import Output, output_of
from atoll.environment import PREFIX, variables
from atoll.errors import NotReady
from atoll.launcher import ServerOptions, ServerProcess
from atoll.launcher.admin.keys import read_key
from atoll.launcher.admin.server import AdminServer
from atoll.launcher.gateway import GatewayProcess, batch_folder
from atoll.launcher.logs import add_line
from atoll.launcher.ports import MAX_PORT, check_distinct
from atoll.launcher.supervisor import Supervisor
from atoll.logs import SERVER_WIDE, LogOptions, configure

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
    admin_key_file: Annotated[
        Path | None,
        typer.Option(
            help="A file that only you can read, with the key for /admin/ on the gateway and on "
            "--admin-port. Without it, models are managed from this machine only (`atoll ps`)."
        ),
    ] = None,
    admin_port: Annotated[
        int,
        typer.Option(
            help="A port for `atoll ps`, load, ... of other machines; 0: none.", min=0, max=MAX_PORT
        ),
    ] = 0,
    lora_folder: Annotated[
        Path | None,
        typer.Option(
            help="The folder in which those who have the admin key, or whom "
            "--allow-runtime-lora lets, may name LoRA adapters to load; without it, hub ids only."
        ),
    ] = None,
    allow_runtime_lora: Annotated[
        bool,
        typer.Option(
            help="Whoever may ask the models may load and unload adapters, without the admin key.",
            envvar=[*variables("allow_runtime_lora"), "VLLM_ALLOW_RUNTIME_LORA_UPDATING"],
        ),
    ] = False,
    admin_host: Annotated[str, typer.Option(help="Where it listens.")] = "127.0.0.1",
    settings: dict[str, str],
) -> None:  # fmt: skip
    """Serve models until Ctrl-C. The settings below apply to every model of this server."""
    log = _log_options(settings)
    out = output_of(log)
    triton = {"--http-port": http_port, "--grpc-port": grpc_port, "--metrics-port": metrics_port}
    gateways = {"--port": port, "--gateway-grpc-port": gateway_grpc_port if port else 0}
    check_distinct({**gateways, **triton, "--admin-port": admin_port})
    key = None if admin_key_file is None else read_key(admin_key_file)
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
    out.copy_to(partial(add_line, process.log_path))
    about = {"gateway": f"http://{host}:{port}"} if port else {}
    admin = administration(
        process, own, about, out.note, key=key,
        address=(admin_host, admin_port) if admin_port else None, lora_folder=lora_folder,
        allows_adapters=allow_runtime_lora,
    )  # fmt: skip
    gateway = gateway_of(
        process, host, port,
        {
            "grpc_port": str(gateway_grpc_port), "api_key": api_key,
            "cors_allow_origin": cors_allow_origin, "admin_socket": str(admin.path),
            "allow_runtime_lora": str(int(allow_runtime_lora)), **batch_folder(port),
        },
    )  # fmt: skip
    if triton_host not in LOOPBACK:
        out.note(
            f"warning: Triton listens on {triton_host}: its ports {http_port}, {grpc_port} and "
            f"{metrics_port} ask for no key{', also not for --api-key' if api_key else ''}, check "
            "nothing, and can be made to end the server; "
            f"{'the' if gateway else 'a'} gateway's port has the same routes"
        )
    if gateway is not None:
        connect_gateway(admin, gateway)
    with _stoppable(process, out):
        _run(process, gateway, admin, out)


def _log_options(settings: Mapping[str, str]) -> LogOptions:
    """How everything logs; flags are put into the environment, for the processes of all models."""
    for name in SERVER_WIDE:
        if name in settings:
            os.environ[PREFIX + name.upper()] = settings[name]
    options = LogOptions.read({})
    configure(options, {"process": "launcher"})
    return options


def _run(
    process: ServerProcess, gateway: GatewayProcess | None, admin: AdminServer, out: Output
) -> None:
    try:
        with out.starting():
            process.start()
            admin.start()
            _wait_ready(process)
            if gateway is not None:
                gateway.start()
                gateway.wait_ready()
                process.on_lost = gateway.lose
        out.ready(process, gateway, admin)
        Supervisor(process, lambda: [gateway.pid] if gateway is not None else [], out.note).run()
    finally:
        admin.stop()
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
