"""The settings of the gateway: each field is a flag and an environment variable."""

from __future__ import annotations

import ipaddress
import math
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from atoll_client.address import parse_address
from atoll_client.errors import AtollError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_MAX_PORT = 65535
# The least value of times that cannot be 0.
_SHORTEST_S = 0.001


def _setting(default: Any, text: str, least: float = 0, most: float = math.inf) -> Any:
    return field(default=default, metadata={"help": text, "least": least, "most": most})


LOG_LEVELS, LOG_FORMATS = ("debug", "info", "warning", "error"), ("text", "json")
# The same words that flags of `atoll serve` accept.
_YES, _NO = ("true", "1", "t", "yes", "y", "on"), ("false", "0", "f", "no", "n", "off", "")


@dataclass(frozen=True)
class GatewaySettings:
    """Settings that TEI or TGI have too have the same names there."""

    server: str = _setting("127.0.0.1:8001", "gRPC addresses of Triton servers, by commas")
    metrics_url: str = _setting("", "the servers' metrics, by commas; merged into /metrics")
    hostname: str = _setting("127.0.0.1", "address to listen on")
    port: int = _setting(8080, "port to listen on", 1, _MAX_PORT)
    grpc_port: int = _setting(0, "port of the gRPC services; 0: none", 0, _MAX_PORT)
    grpc_max_parallel_stream_requests: int = _setting(1024, "messages of one stream at work", 1)
    default_model: str = _setting("", "models used when none is named, by commas, one per task")
    api_key: str = _setting("", "keys of which one must come as a bearer token, by commas")
    trusted_proxies: str = _setting(
        "", "addresses or networks of proxies, by commas, whose X-Forwarded-For or Forwarded tells "
        "the clients' addresses"
    )  # fmt: skip
    requests_per_minute: int = _setting(
        0, "requests of one client (a key or, without keys, an address) before 429; 0: any number"
    )
    tokens_per_minute: int = _setting(
        0, "tokens of one client, of prompts and answers, before 429; 0: any number"
    )
    admin_socket: str = _setting(
        "", "the launcher's socket, to which /admin/ is passed on with the client's admin key; "
        "empty: models and adapters are not managed here"
    )  # fmt: skip
    allow_runtime_lora: int = _setting(
        0, "1: whoever may ask the models may load adapters, too; 0: with the admin key", 0, 1
    )
    load_wait_s: float = _setting(
        60.0, "seconds that a request waits for a model that was idle to be loaded, before 503",
        _SHORTEST_S,
    )  # fmt: skip
    cors_allow_origin: str = _setting("", "allowed origins, by commas; * for all")
    payload_limit: int = _setting(2_000_000, "bytes of the largest body", 1)
    tensor_payload_limit: int = _setting(64_000_000, "bytes of the largest body of tensors", 1)
    max_held_bytes: int = _setting(1_000_000_000, "bytes of all requests held before 429", 1)
    body_timeout_s: float = _setting(
        60.0, "seconds within which a body must be complete", _SHORTEST_S
    )
    write_timeout_s: float = _setting(60.0, "seconds a client may read nothing", _SHORTEST_S)
    max_client_batch_size: int = _setting(
        0, "texts in one request on TEI's routes; 0: what the model was started with, else 32"
    )
    max_answers: int = _setting(128, "answers that one request may ask for", 1)
    max_concurrent_requests: int = _setting(
        0, "requests held before new ones get 429; 0: what the models hold together, at least 2048"
    )
    unknown_fields: str = _setting(
        "dialect", "refuse: a field that no table has is an error; report: a header and the log "
        "name it; dialect: OpenAI's and Anthropic's routes refuse, the others report"
    )  # fmt: skip
    request_timeout_s: float = _setting(
        600.0, "seconds after which an answer is given up", _SHORTEST_S
    )
    moderation_safe_labels: str = _setting(
        "safe,ok,neutral,benign,legit,non-toxic,not toxic,nontoxic",
        "labels of classifiers, by commas, that do not flag a text on /v1/moderations",
    )
    max_stored_responses: int = _setting(
        4096, "responses of /v1/responses that are stored in memory; 0: none"
    )
    max_stored_bytes: int = _setting(256_000_000, "bytes of all stored responses", 1)
    stored_response_s: float = _setting(86_400.0, "seconds that a response is stored", _SHORTEST_S)
    affinity: str = _setting(
        "prompt", "which generations share a server, if there are several: prompt: of one session "
        "or with one beginning; session: of one session; none: the least busy server gets each"
    )  # fmt: skip
    affinity_max_load: float = _setting(
        1.25, "a server with more than this many times the mean of open requests gets no more", 1
    )
    retry_budget: float = _setting(
        0.2, "share of requests that may be sent to a second server; 0: none"
    )
    server_silence_s: float = _setting(
        30.0, "seconds without any answer of a server after which its requests are given up", 1
    )
    batch_folder: str = _setting("", "where files and batches are kept; empty or none: nowhere")
    batch_parallel_lines: int = _setting(16, "lines of all batches that run at once", 1)
    max_batch_lines: int = _setting(50_000, "lines of one batch", 1)
    max_batch_file_bytes: int = _setting(200_000_000, "bytes of one uploaded file", 1)
    max_batch_files: int = _setting(10_000, "files that are kept, and batches", 1)
    max_batch_bytes: int = _setting(10_000_000_000, "bytes of all files that are kept", 1)
    batch_file_s: int = _setting(
        2_592_000, "seconds that a file is kept if it does not say so itself", 1
    )
    health_interval_s: float = _setting(2.0, "seconds between looks at the servers", _SHORTEST_S)
    shutdown_grace_s: float = _setting(10.0, "seconds that requests get to end when stopping")
    log_level: str = _setting("warning", "least level of log lines: debug, info, warning or error")
    log_format: str = _setting("text", "text, or json: each line an object")
    log_requests: str = _setting(
        "", "true: a line for each request on standard error; text or json: in this format"
    )
    otlp_endpoint: str = _setting("", "where OpenTelemetry spans go; needs the extra otel")
    otlp_service_name: str = _setting("atoll-gateway", "the service's name in spans")

    def __post_init__(self) -> None:
        """Raises ValueError: a setting has a value that is not allowed."""
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed and not (name == "log_requests" and value in (*_YES, *_NO)):
                raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
        for one in fields(self):
            number: Any = getattr(self, one.name)
            least, most = one.metadata["least"], one.metadata["most"]
            if isinstance(number, str):
                continue
            if not least <= number <= most or math.isinf(number):
                limit = f"at least {least}" + (f", at most {most}" if most < math.inf else "")
                raise ValueError(f"{one.name} is {number}; it must be a number, {limit}")
        if not listed(self.server):
            raise ValueError(f"server is {self.server!r}; expected addresses, by commas")
        try:
            _ = self.servers
        except AtollError as error:
            raise ValueError(f"server: {error}") from None
        networks(self.trusted_proxies)

    @property
    def request_log_format(self) -> str:
        """The format of the line for each request; "": there are none."""
        if self.log_requests in _NO:
            return ""
        return self.log_format if self.log_requests in _YES else self.log_requests

    @property
    def servers(self) -> tuple[str, ...]:
        """Addresses of the servers, without a scheme: the gateway always uses gRPC.

        Raises:
            ValidationError: one of them is not an address.
        """
        found = (parse_address(text).target for text in listed(self.server))
        return tuple(target.removeprefix("http://") for target in found)

    @classmethod
    def read(
        cls, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> GatewaySettings:
        """Settings from flags, then from the environment (``ATOLL_GATEWAY_PORT``, ``API_KEY``).

        A wrong value ends the process with a message, as usual with argparse.
        """
        environment = os.environ if environment is None else environment
        parser = ArgumentParser("atoll-gateway", description=(__doc__ or "").splitlines()[0])
        for one in fields(cls):
            flag = f"--{one.name.replace('_', '-')}"
            try:
                default = _from_environment(one.name, environment, one.default)
            except ValueError as error:
                parser.error(str(error))
            text = f"{one.metadata['help']} (default: {one.default!r})"
            parser.add_argument(flag, type=type(one.default), default=default, help=text)
        found: Namespace = parser.parse_args(list(arguments))
        try:
            return cls(**vars(found))
        except ValueError as error:
            parser.error(str(error))


def listed(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def networks(text: str) -> tuple[Network, ...]:
    """The addresses and networks of ``trusted_proxies``.

    Raises:
        ValueError: one of them is none.
    """
    try:
        return tuple(map(ipaddress.ip_network, listed(text)))
    except ValueError as error:
        raise ValueError(f"trusted_proxies is {text!r}: {error}") from None


def _from_environment(name: str, environment: Mapping[str, str], default: Any) -> Any:
    """Raises ValueError: the variable's value has another type."""
    for variable in variables(name):
        text = environment.get(variable, "")
        # Kubernetes sets ATOLL_GATEWAY_PORT to a URL if a service is called "atoll-gateway".
        if not text or (name.endswith("port") and "://" in text):
            continue
        try:
            return type(default)(text)
        except ValueError:
            kind = type(default).__name__
            raise ValueError(f"{variable} is {text!r}; expected {kind}") from None
    return default


def variables(name: str) -> tuple[str, ...]:
    """The environment variables of a setting; the first that is set wins."""
    own, ours = f"ATOLL_GATEWAY_{name.upper()}", f"ATOLL_{name.upper()}"
    if name in _SERVER_WIDE:
        return (own, ours)
    return (own, ours, name.upper()) if name in _SHARED else (own,)


_CHOICES = {
    "unknown_fields": ("dialect", "refuse", "report"),
    "log_level": LOG_LEVELS,
    "log_format": LOG_FORMATS,
    "log_requests": ("true", "false", *LOG_FORMATS),
    "affinity": ("prompt", "session", "none"),
}
# Settings of `atoll serve` that apply to all of its processes.
_SERVER_WIDE = ("log_level", "log_format", "log_requests")
# `atoll serve`, TEI and TGI read these too; other names would clash with the server's.
_SHARED = (
    "api_key", "cors_allow_origin", "payload_limit", "otlp_endpoint", "otlp_service_name",
    "grpc_max_parallel_stream_requests",
)  # fmt: skip
