"""``atoll doctor``: what this machine lacks, and a remedy for each finding."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from atoll.cli.checks import CHECKS, Finding, Machine, gpu_memory
from atoll.cli.model_fit import fit
from atoll.cli.options import AsJson, print_json
from atoll.cli.tables import print_table

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Also say how many GPUs this model needs; may be repeated."),
    ] = None,
    http_port: Annotated[int, typer.Option(envvar="ATOLL_HTTP_PORT", help="Port to check.")] = 8000,
    grpc_port: Annotated[int, typer.Option(envvar="ATOLL_GRPC_PORT", help="Port to check.")] = 8001,
    metrics_port: Annotated[
        int, typer.Option(envvar="ATOLL_METRICS_PORT", help="Port to check.")
    ] = 8002,
    port: Annotated[int, typer.Option(envvar="ATOLL_PORT", help="Port to check.")] = 8080,
    gateway_grpc_port: Annotated[
        int, typer.Option(envvar="ATOLL_GATEWAY_GRPC_PORT", help="Port to check.")
    ] = 8081,
    server: Annotated[
        str | None,
        typer.Option(
            envvar="ATOLL_TRITONSERVER", help="A tritonserver to check instead of the wheel's."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine; exits with status 1 if something keeps Atoll from running."""
    machine = Machine(server, (http_port, grpc_port, metrics_port, port, gateway_grpc_port))
    findings = [finding for check in CHECKS for finding in check(machine)]
    if model:
        findings += [fit(name, gpu_memory()) for name in model]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _print(findings)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


def _print(findings: list[Finding]) -> None:
    print_table(
        ("check", "", "found", "what to do"),
        [(one.name, one.status, one.found, one.remedy) for one in findings],
        styles=_STYLES,
    )
