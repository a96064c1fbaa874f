"""``atoll worker``: runs this machine's ranks of a model that another machine serves."""

from __future__ import annotations

import logging
import os
from typing import Annotated

import typer

from atoll.environment import variables
from atoll.errors import ConfigError
from atoll.runner.ranks.connection import network_key
from atoll.runner.ranks.worker import Worker

_INDEX = "LWS_WORKER_INDEX"


def worker(
    *,
    leader: Annotated[
        str | None,
        typer.Option(
            help="HOST or HOST:PORT of the machine that serves the model; by default "
            "LWS_LEADER_ADDRESS.",
            envvar=["ATOLL_WORKER_LEADER", "LWS_LEADER_ADDRESS"],
        ),
    ] = None,
    shard_port: Annotated[
        int,
        typer.Option(
            help="The port, unless --leader has one.",
            envvar=variables("shard_port"),
            min=1,
            max=65535,
        ),
    ] = 8003,
    rank: Annotated[
        int | None,
        typer.Option(
            help="The first rank of this machine; by default LWS_WORKER_INDEX times the ranks of "
            "a machine, or else 1.",
            min=1,
        ),
    ] = None,
    num_shard: Annotated[
        int | None,
        typer.Option(help="Ranks of all machines together.", envvar=variables("num_shard"), min=2),
    ] = None,
    num_nodes: Annotated[
        int, typer.Option(help="Machines.", envvar=variables("num_nodes"), min=1)
    ] = 1,
    shard_timeout_s: Annotated[
        float,
        typer.Option(
            help="Seconds without a sign of life after which a rank is restarted.",
            envvar=variables("shard_timeout_s"),
            min=1,
        ),
    ] = 120.0,
) -> None:
    """Run this machine's part of a model that another machine serves, until Ctrl-C. It has
    num_shard / num_nodes ranks; without both, one. All machines need the same secret key in
    ATOLL_SHARD_KEY."""
    logging.getLogger("atoll").setLevel(logging.INFO)
    if leader is None:
        raise ConfigError("no --leader was given, and LWS_LEADER_ADDRESS is not set")
    network_key()  # checked here rather than by every rank
    count = 1
    if num_shard is not None and num_nodes > 1:
        count, left = divmod(num_shard, num_nodes)
        if left:
            raise ConfigError(
                f"num_shard is {num_shard} and num_nodes is {num_nodes}; num_shard must be a "
                "multiple of it"
            )
    address = leader if ":" in leader else f"{leader}:{shard_port}"
    first = rank if rank is not None else _index() * count
    raise typer.Exit(Worker(address, first, count, shard_timeout_s).run())


def _index() -> int:
    """This machine's number in its group; 1 outside of one."""
    text = os.environ.get(_INDEX) or "1"
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{_INDEX} is {text!r}; expected 1 or more, since the leader is 0")
    return int(text)
